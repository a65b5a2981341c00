"""The contract of a detector: `fit(train) -> fitted`, `fitted(predictions) -> Scores`."""

# N samples, D features, P inputs of the last layer, K classes, T dropout passes or members of an ensemble

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.score import Scores
from ssl_sat.spec import UserError


class NotApplicable(UserError):
    """A detector that these predictions do not allow: no dropout passes, signed features, no last linear layer.

    An evaluation of many detectors may show the message where the numbers would stand.
    """


@dataclass(frozen=True, eq=False)
class McResult:
    """What T dropout passes, or the T members of an ensemble, say of N samples; float64, entropies in nats.

    `log_p_NK` is the log of the mean softmax; `mutual_information_N` = predictive - expected entropy;
    `pass_variance_N` is the variance of the class probabilities over the passes, averaged over the classes.
    `method`: 'exact' masks, 'moment_matched' (an approximation, see `ssl_sat.ood.linear_head`) or 'ensemble'.
    """

    log_p_NK: NDArray[np.float64]
    predictive_entropy_N: NDArray[np.float64]
    expected_entropy_N: NDArray[np.float64]
    mutual_information_N: NDArray[np.float64]
    pass_variance_N: NDArray[np.float64]
    rows_N: NDArray[np.int64]
    passes: int
    seed: int
    method: str = "exact"


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The linear layer that the logits come from: logits_NK = x_NP weight_KP^T + bias_K, in float64.

    `dropout` is the rate of a dropout directly on x when the network has no other one, else None.
    """

    weight_KP: NDArray[np.float32]
    bias_K: NDArray[np.float32]
    dropout: float | None = None

    def __call__(self, x_NP: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logits of inputs of this layer."""
        weight_KP, bias_K = (array.astype(np.float64) for array in (self.weight_KP, self.bias_K))
        return np.asarray(x_NP, dtype=np.float64) @ weight_KP.T + bias_K


class PredictionsLike(Protocol):
    """What a detector reads; `ssl_sat.evaluation.predict.Predictions` is one."""

    @property
    def features_ND(self) -> NDArray[np.float32]: ...  # noqa: D102

    @property
    def logits_NK(self) -> NDArray[np.float32]: ...  # noqa: D102

    @property
    def labels_N(self) -> NDArray[Any]: ...  # noqa: D102

    @property
    def rows_N(self) -> NDArray[np.int64]: ...  # noqa: D102

    @property
    def split(self) -> str: ...  # noqa: D102

    @property
    def mc(self) -> McResult | None: ...  # noqa: D102

    @property
    def members(self) -> McResult | None: ...  # noqa: D102

    @property
    def last(self) -> LastLayer | None: ...  # noqa: D102

    @property
    def penultimate_NP(self) -> NDArray[np.float32] | None: ...  # noqa: D102


Fitted = Callable[[PredictionsLike], Scores]


class Detector(Protocol):
    """`needs` names what `fitted` reads of the predictions: 'features', 'logits', 'last', 'mc' or 'members'.

    'last' is the last linear layer with its inputs (`penultimate_NP`), 'members' the members of an ensemble.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def needs(self) -> str: ...  # noqa: D102

    def fit(self, train: PredictionsLike) -> Fitted:
        """Learn from predictions of the training split; raises ValueError on any other split, or NotApplicable."""
        ...


def require_train(train: PredictionsLike, detector: str) -> None:
    """Raise ValueError unless the predictions are of a training split."""
    if train.split != "train":
        raise ValueError(f"detector '{detector}' is fitted on training predictions only, not on split '{train.split}'")


def require_mc(predictions: PredictionsLike, detector: str) -> McResult:
    """Return the dropout passes of the predictions; raise NotApplicable if there were none."""
    if predictions.mc is None:
        raise NotApplicable(
            f"detector '{detector}' needs Monte-Carlo dropout, and these predictions of split '{predictions.split}'"
            " have none. Run ood_eval with mc.passes >= 2 on a model with dropout (head.dropout or encoder.dropout)."
        )
    return predictions.mc


def require_members(predictions: PredictionsLike, detector: str) -> McResult:
    """Return what the members of an ensemble say; raise NotApplicable if there is one network only."""
    if predictions.members is None:
        raise NotApplicable(
            f"detector '{detector}' needs an ensemble, and these predictions of split '{predictions.split}' are of one"
            " network. Fine-tune the same recipe with other seeds and give all of the models."
        )
    return predictions.members


def require_last(predictions: PredictionsLike, detector: str) -> tuple[NDArray[np.float64], LastLayer]:
    """Return the inputs (N, P) of the last linear layer, in float64, and the layer; NotApplicable without one."""
    if predictions.last is None or predictions.penultimate_NP is None:
        raise NotApplicable(
            f"detector '{detector}' works on the last linear layer and its inputs, and the head of this model does not"
            " end in one (or these predictions were stored before it was recorded). Use head.kind=mlp or linear."
        )
    return np.asarray(predictions.penultimate_NP, dtype=np.float64), predictions.last


def require_labels(train: PredictionsLike, detector: str, classes: int = 1) -> NDArray[np.int64]:
    """Return one class number a sample (-1: none); NotApplicable for several labels a sample or too few classes."""
    labels_N = np.asarray(train.labels_N)
    if labels_N.ndim != 1:
        raise NotApplicable(
            f"detector '{detector}' fits one density a class and so needs one label a sample, not labels of shape"
            f" {labels_N.shape}. For several labels a sample use energy, max_logit or knn."
        )
    found = len(np.unique(labels_N[labels_N >= 0]))
    if found < classes:
        raise NotApplicable(
            f"detector '{detector}' needs training samples of at least {classes} class{'es' * (classes > 1)}; there"
            f" {'is' if found == 1 else 'are'} {found}."
        )
    return labels_N.astype(np.int64)

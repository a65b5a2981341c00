"""The contract of a detector: `fit(train) -> fitted`, `fitted(predictions) -> Scores`."""

# N samples, D features, K classes, T dropout passes

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.score import Scores
from ssl_sat.spec import UserError


@dataclass(frozen=True, eq=False)
class McResult:
    """What T dropout passes say of N samples; float64, entropies in nats.

    `log_p_NK` is the log of the mean softmax; `mutual_information_N` = predictive - expected entropy;
    `pass_variance_N` is the variance of the class probabilities over the passes, averaged over the classes.
    """

    log_p_NK: NDArray[np.float64]
    predictive_entropy_N: NDArray[np.float64]
    expected_entropy_N: NDArray[np.float64]
    mutual_information_N: NDArray[np.float64]
    pass_variance_N: NDArray[np.float64]
    rows_N: NDArray[np.int64]
    passes: int
    seed: int


class PredictionsLike(Protocol):
    """What a detector reads; `ssl_sat.evaluation.predict.Predictions` is one."""

    @property
    def features_ND(self) -> NDArray[np.float32]: ...  # noqa: D102

    @property
    def logits_NK(self) -> NDArray[np.float32]: ...  # noqa: D102

    @property
    def labels_N(self) -> NDArray[Any]: ...  # noqa: D102

    @property
    def split(self) -> str: ...  # noqa: D102

    @property
    def mc(self) -> McResult | None: ...  # noqa: D102


Fitted = Callable[[PredictionsLike], Scores]


class Detector(Protocol):
    """`needs` names what `fitted` reads of the predictions: 'features', 'logits' or 'mc'."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def needs(self) -> str: ...  # noqa: D102

    def fit(self, train: PredictionsLike) -> Fitted:
        """Learn from predictions of the training split; raises ValueError on any other split."""
        ...


def require_train(train: PredictionsLike, detector: str) -> None:
    """Raise ValueError unless the predictions are of a training split."""
    if train.split != "train":
        raise ValueError(f"detector '{detector}' is fitted on training predictions only, not on split '{train.split}'")


def require_mc(predictions: PredictionsLike, detector: str) -> McResult:
    """Return the dropout passes of the predictions; raise UserError if there were none."""
    if predictions.mc is None:
        raise UserError(
            f"detector '{detector}' needs Monte-Carlo dropout, and these predictions of split '{predictions.split}'"
            " have none. Run ood_eval with mc.passes >= 2 on a model with dropout (head.dropout or encoder.dropout)."
        )
    return predictions.mc

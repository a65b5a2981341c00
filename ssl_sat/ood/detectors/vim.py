"""Virtual-logit matching (ViM; Wang et al. 2022, section 4).

    score = alpha |R R' (h - u)| - logsumexp_k z_k

h are the inputs of the last layer, z its logits, u = -W^+ b the point where all logits vanish. R spans what the
principal space leaves over: the eigenvectors of sum (h - u)(h - u)' over the training samples, without the `dimension`
largest. alpha = sum max_k z_k / sum |R R' (h - u)| over the training samples makes the residual a logit like others.
The score is monotone in the probability of that virtual logit (their equation 6).
"""  # fmt: skip

# N samples, P inputs of the last layer, K classes

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import logsumexp

from ssl_sat.ood.contract import Fitted, NotApplicable, PredictionsLike, require_last, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import VimSpec
from ssl_sat.spec import ConfigError

_LEAST = 1e-5  # of the length of a feature vector; float32 features carry errors of 1e-7 of it


@dataclass(frozen=True)
class VirtualLogit:
    """The norm of what lies outside the principal space of training features, as a logit beside the classes'."""

    spec: VimSpec
    name: str = "vim"
    needs: str = "last"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Find the principal space and alpha.

        ConfigError for a `dimension` that leaves no feature outside it; NotApplicable when the training features do
        not leave it (dead units): what is then measured of a sample is rounding.
        """
        require_train(train, self.name)
        x_NP, last = require_last(train, self.name)
        dimension = self.spec.dimension or principal_dimension(x_NP.shape[1])
        if dimension >= x_NP.shape[1]:
            raise ConfigError(
                f"detector.dimension={dimension} leaves nothing of {x_NP.shape[1]} features outside the principal space"
            )
        origin_P = -np.linalg.pinv(last.weight_KP.astype(np.float64)) @ last.bias_K.astype(np.float64)
        moved_NP = x_NP - origin_P
        _, rest_PR = eigh(moved_NP.T @ moved_NP, subset_by_index=(0, x_NP.shape[1] - dimension - 1))
        largest_N = np.asarray(train.logits_NK, dtype=np.float64).max(axis=1)
        residual = np.linalg.norm(moved_NP @ rest_PR, axis=1).mean()
        length = np.linalg.norm(moved_NP, axis=1).mean()
        if not residual > _LEAST * length:
            raise NotApplicable(
                f"vim: all training features lie in a space of {dimension} dimensions of {x_NP.shape[1]} (units that "
                f"never fire?), so that nothing is left outside it. Set a smaller dimension, as in "
                f"'detectors=[{{name: vim, dimension: {max(1, dimension // 2)}}}]'."
            )
        alpha = largest_N.mean() / residual

        def scores(predictions: PredictionsLike) -> Scores:
            inputs_NP, _ = require_last(predictions, self.name)
            virtual_N = alpha * np.linalg.norm((inputs_NP - origin_P) @ rest_PR, axis=1)
            return Scores(self.name, virtual_N - logsumexp(_float64(predictions.logits_NK), axis=1))

        return scores


def principal_dimension(width: int) -> int:
    """The authors' choice: 1000 of 2048 features, 512 of 768 and more, else half of them."""
    if width >= 2048:
        return 1000
    return 512 if width >= 768 else max(1, width // 2)


def _float64(x: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(x, dtype=np.float64)


def build(spec: VimSpec) -> VirtualLogit:
    """Build the detector."""
    return VirtualLogit(spec)

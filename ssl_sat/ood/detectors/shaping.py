"""Energy of logits from shaped activations: ReAct, ASH, SCALE. All three are for non-negative features.

With h >= 0 the inputs of the last layer, and s the sum of h over the sum of its largest entries (the share 1 - prune):

    react    h' = min(h, c), c the `quantile` of all training activations (Sun et al. 2021, section 3)
    ash s    h' = exp(s) h on the largest entries, 0 elsewhere; p: without the factor; b: the sum of h spread evenly
             over the largest entries (Djurisic et al. 2023, section 3)
    scale    h' = exp(s) h everywhere (Xu et al. 2024, section 3)
    score    -logsumexp_k (W h' + b)

ASH and SCALE were given for the map before pooling or the pooled vector; here it is the vector. They rest on sums that
grow with evidence: with features of both signs (a ViT's, a projection's) the ratio means nothing, and ReAct would cut
one tail of two. Such features are refused.
"""  # fmt: skip

# N samples, P inputs of the last layer

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ssl_sat.ood.contract import Fitted, NotApplicable, PredictionsLike, require_last, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import AshSpec, ReactSpec, ScaleSpec

Array = NDArray[np.float64]
_ROWS = 2048  # samples shaped at a time


@dataclass(frozen=True)
class ShapedEnergy:
    """Energy after shaping; only ReAct learns, one number."""

    spec: ReactSpec | AshSpec | ScaleSpec
    needs: str = "last"

    @property
    def name(self) -> str:
        """That of the spec."""
        return self.spec.name

    def fit(self, train: PredictionsLike) -> Fitted:
        """Return the score; NotApplicable for signed features."""
        require_train(train, self.name)
        x_NP, last = require_last(train, self.name)
        require_non_negative(x_NP, self.name)
        shape = self._shape(x_NP)

        def scores(predictions: PredictionsLike) -> Scores:
            inputs_NP, _ = require_last(predictions, self.name)
            require_non_negative(inputs_NP, self.name)
            parts = [inputs_NP[start : start + _ROWS] for start in range(0, len(inputs_NP), _ROWS)]
            return Scores(self.name, np.concatenate([-logsumexp(last(shape(part)), axis=1) for part in parts]))

        return scores

    def _shape(self, train_NP: Array) -> Callable[[Array], Array]:
        spec = self.spec
        if isinstance(spec, ReactSpec):
            limit = float(np.quantile(train_NP, spec.quantile))
            return lambda x_NP: np.minimum(x_NP, limit)
        if isinstance(spec, AshSpec):
            prune, variant = spec.prune, spec.variant
            return lambda x_NP: pruned(x_NP, prune, variant)
        return lambda x_NP: x_NP * np.exp(evidence(x_NP, spec.prune))[:, None]


def require_non_negative(x_NP: Array, detector: str) -> None:
    """Raise NotApplicable for features of both signs."""
    lowest = float(x_NP.min()) if x_NP.size else 0.0
    if lowest < 0:
        raise NotApplicable(
            f"detector '{detector}' is for non-negative features (behind a ReLU); these go down to {lowest:.3g}, and"
            f" {100 * float((x_NP < 0).mean()):.0f} % are below 0. Use energy, vim, knn or mahalanobis for this model."
        )


def largest(x_NP: Array, prune: float) -> NDArray[np.bool_]:
    """Which entries of each row are among its P - round(P prune) largest; exactly so many, ties by position."""
    width = x_NP.shape[1]
    keep = max(1, width - round(width * prune))
    order_NP = np.argsort(-x_NP, axis=1, kind="stable")[:, :keep]
    found_NP = np.zeros(x_NP.shape, dtype=bool)
    np.put_along_axis(found_NP, order_NP, True, axis=1)
    return found_NP


def evidence(x_NP: Array, prune: float) -> Array:
    """Sum of each row over the sum of its largest entries: between 1 and P / kept; 1 for a row of zeros."""
    top_N = np.where(largest(x_NP, prune), x_NP, 0).sum(axis=1)
    return np.divide(x_NP.sum(axis=1), top_N, out=np.ones(len(x_NP)), where=top_N > 0)


def pruned(x_NP: Array, prune: float, variant: str) -> Array:
    """ASH: the smallest entries set to 0, and the rest scaled (s), left (p) or evened out (b)."""
    kept_NP = largest(x_NP, prune)
    if variant == "b":
        return kept_NP * (x_NP.sum(axis=1) / kept_NP.sum(axis=1))[:, None]
    shaped_NP = np.where(kept_NP, x_NP, 0)
    return shaped_NP * np.exp(evidence(x_NP, prune))[:, None] if variant == "s" else shaped_NP


def build(spec: ReactSpec | AshSpec | ScaleSpec) -> ShapedEnergy:
    """Build the detector."""
    return ShapedEnergy(spec)

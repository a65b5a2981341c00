"""Distance to the decision boundaries (fDBD; Liu & Qin 2024, equations 3 and 5).

    score = -1 / (K - 1) sum_{c != y} |z_y - z_c| / (|w_y - w_c| |h - mu|)

h are the inputs of the last layer with rows w_c, z its logits, y the class of the largest, mu the mean of the training
inputs. |z_y - z_c| / |w_y - w_c| is how far h is from where c would win; ID samples lie further from boundaries than
OOD samples at the same distance from mu.
"""  # fmt: skip

# N samples, P inputs of the last layer, K classes

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_sat.ood.contract import Fitted, NotApplicable, PredictionsLike, require_last, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import FdbdSpec

_TINY = 1e-12


@dataclass(frozen=True)
class BoundaryDistance:
    """Mean distance to the boundaries, regularised by the distance to the training mean."""

    name: str = "fdbd"
    needs: str = "last"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Take the training mean and the distances between rows of the last layer."""
        require_train(train, self.name)
        x_NP, last = require_last(train, self.name)
        mean_P, weight_KP = x_NP.mean(axis=0), last.weight_KP.astype(np.float64)
        if len(weight_KP) < 2:
            raise NotApplicable(f"detector '{self.name}' needs at least 2 classes")
        apart_KK = np.linalg.norm(weight_KP[:, None] - weight_KP[None], axis=2)

        def scores(predictions: PredictionsLike) -> Scores:
            inputs_NP, _ = require_last(predictions, self.name)
            logits_NK = np.asarray(predictions.logits_NK, dtype=np.float64)
            winner_N = logits_NK.argmax(axis=1)
            gaps_NK = logits_NK.max(axis=1, keepdims=True) - logits_NK
            boundary_N = (gaps_NK / np.maximum(apart_KK[winner_N], _TINY)).sum(axis=1) / (len(weight_KP) - 1)
            return Scores(self.name, -boundary_N / np.maximum(np.linalg.norm(inputs_NP - mean_P, axis=1), _TINY))

        return scores


def build(spec: FdbdSpec) -> BoundaryDistance:
    """Build the detector."""
    return BoundaryDistance()

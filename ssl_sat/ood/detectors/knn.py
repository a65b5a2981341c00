"""Distance to the k-th nearest training feature at unit length (Sun et al. 2022, equation 2)."""

# N samples, M training samples, D features

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.contract import Fitted, PredictionsLike, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import KnnSpec
from ssl_sat.spec import ConfigError

_CELLS = 2**24  # distances held at once: 128 MiB of float64


@dataclass(frozen=True)
class NearestNeighbour:
    """Keeps the unit training features; samples of the training set itself find themselves at distance 0."""

    spec: KnnSpec
    name: str = "knn"
    needs: str = "features"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Keep the training features; raises ConfigError if there are fewer than k."""
        require_train(train, self.name)
        bank_MD = unit(train.features_ND)
        if self.spec.k > len(bank_MD):
            raise ConfigError(f"detector.k={self.spec.k} is more than the {len(bank_MD)} training samples; lower it")

        def scores(predictions: PredictionsLike) -> Scores:
            return Scores(self.name, kth_distance(unit(predictions.features_ND), bank_MD, self.spec.k))

        return scores


def unit(x_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale every row to length 1; a row of zeros stays zero."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)


def kth_distance(x_ND: NDArray[np.float64], bank_MD: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Euclidean distance of each unit row to its k-th nearest row of the bank, exact, in chunks."""
    step = max(1, _CELLS // len(bank_MD))
    found = []
    for start in range(0, len(x_ND), step):
        chunk_ND = x_ND[start : start + step]
        cosine_NM = chunk_ND @ bank_MD.T
        at_N = np.argpartition(-cosine_NM, k - 1, axis=1)[:, k - 1]
        found.append(np.linalg.norm(chunk_ND - bank_MD[at_N], axis=1))  # not sqrt(2 - 2 cos): exact near 0
    return np.concatenate(found) if found else np.zeros(0)


def build(spec: KnnSpec) -> NearestNeighbour:
    """Build the detector."""
    return NearestNeighbour(spec)

"""Distance to the k-th nearest training feature at unit length (Sun et al. 2022, equation 2).

    score = |h / |h| - z_(k)|, z_(1), z_(2), ... the unit training features from near to far

Exact in float64, at the price of float32: cosines in float32 say which training samples may be the k-th nearest, those
that are within twice the rounding error of it, and only their distances are computed in float64.
"""  # fmt: skip

# N samples, M training samples, D features

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.contract import Fitted, PredictionsLike, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import KnnSpec
from ssl_sat.spec import ConfigError

Array = NDArray[np.float64]
_CELLS = 2**24  # cosines held at once: 64 MiB
_PAIRS = 2**21  # features of candidates held at once, in float64
_CANDIDATES = 64  # a sample, on average; with more, float64 throughout is cheaper


@dataclass(frozen=True)
class NearestNeighbour:
    """Keeps the unit training features; samples of the training set itself find themselves at distance 0."""

    spec: KnnSpec
    name: str = "knn"
    needs: str = "features"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Keep the training features; raises ConfigError if there are fewer than k."""
        require_train(train, self.name)
        if self.spec.k > len(train.features_ND):
            raise ConfigError(
                f"detector.k={self.spec.k} is more than the {len(train.features_ND)} training samples; lower it"
            )
        bank = Bank(train.features_ND)
        return lambda predictions: Scores(self.name, bank.kth_distance(predictions.features_ND, self.spec.k))


class Bank:
    """Training features as they came, their lengths, and the unit features in float32."""

    def __init__(self, features_MD: NDArray[np.floating[Any]]) -> None:
        self.raw_MD = features_MD
        self.unit_MD = np.concatenate([unit(part).astype(np.float32) for part in _split(features_MD)])

    def kth_distance(self, features_ND: NDArray[np.floating[Any]], k: int) -> Array:
        """Euclidean distance of each unit row to its k-th nearest unit row of the bank."""
        step = max(1, _CELLS // len(self.unit_MD))
        parts = [self._of_chunk(features_ND[start : start + step], k) for start in range(0, len(features_ND), step)]
        return np.concatenate([np.zeros(0), *parts])

    def _of_chunk(self, features_ND: NDArray[np.floating[Any]], k: int) -> Array:
        unit_ND = unit(features_ND)
        cosine_NM = unit_ND.astype(np.float32) @ self.unit_MD.T
        error = rounding_error(unit_ND.shape[1])
        kth_N1 = np.partition(cosine_NM, len(self.unit_MD) - k, axis=1)[:, -k, None]
        gap_NM = np.subtract(cosine_NM, kth_N1)
        surely_nearer_N = (gap_NM > 2 * error).sum(axis=1)
        rows, columns = np.nonzero(np.abs(gap_NM, out=gap_NM) <= 2 * error)
        if len(rows) > _CANDIDATES * len(unit_ND):
            return self._in_float64(unit_ND, k)
        distances = self._distances(unit_ND, rows, columns)
        if np.abs(1 - distances**2 / 2 - cosine_NM[rows, columns]).max(initial=0) > error:
            return self._in_float64(unit_ND, k)
        first_N = np.searchsorted(rows, np.arange(len(unit_ND)))
        return distances[np.lexsort((distances, rows))[first_N + k - 1 - surely_nearer_N]]

    def _distances(self, unit_ND: Array, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
        """Distances of pairs; not sqrt(2 - 2 cos), which loses all digits near 0."""
        step, found = max(1, _PAIRS // unit_ND.shape[1]), [np.zeros(0)]
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            found.append(np.linalg.norm(unit_ND[rows[some]] - unit(self.raw_MD[columns[some]]), axis=1))
        return np.concatenate(found)

    def _in_float64(self, unit_ND: Array, k: int) -> Array:
        """Without the short cut: for many training samples at one distance."""
        cosine_NM = np.concatenate([unit_ND @ unit(part).T for part in _split(self.raw_MD)], axis=1)
        at_N = np.argpartition(-cosine_NM, k - 1, axis=1)[:, k - 1]
        return self._distances(unit_ND, np.arange(len(unit_ND)), at_N)


def rounding_error(width: int) -> float:
    """Bound on the error of a float32 product of unit rows: four standard deviations of a random walk of roundings.

    It is checked against the candidates; where it does not hold, float64 is used.
    """
    return 2.0**-24 * (4 * math.sqrt(width) + 4)


def unit(x_ND: NDArray[np.floating[Any]]) -> Array:
    """Scale every row to length 1; a row of zeros stays zero."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)


def _split(x_MD: NDArray[np.floating[Any]]) -> list[NDArray[np.floating[Any]]]:
    return np.array_split(x_MD, max(1, len(x_MD) // 4096))


def build(spec: KnnSpec) -> NearestNeighbour:
    """Build the detector."""
    return NearestNeighbour(spec)

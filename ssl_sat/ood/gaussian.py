"""Gaussian densities with a tied covariance: means, one Cholesky factor, squared distances. Float64 throughout.

Whitening is done once for all means: |L^-1 (x - mu_k)|^2 = |w|^2 - 2 w m_k + |m_k|^2 with w and m_k the whitened sample
and mean. Memory holds a few thousand rows in float64, whatever N.
"""

# N samples, D features, K classes

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dsyrk

from ssl_sat.spec import UserError

Array = NDArray[np.float64]
_CHUNK = 1024  # rows


class SingularCovariance(UserError, ValueError):
    """A covariance without an inverse: too few samples for so many features, or features that do not vary."""


@dataclass(frozen=True, eq=False)
class TiedGaussian:
    """Class means, already whitened, and the factor L of the covariance (lower triangular, L L' = covariance)."""

    factor_DD: Array
    centre_D: Array
    white_means_KD: Array

    def squared_distances(self, x_ND: NDArray[np.floating[Any]]) -> Array:
        """Squared Mahalanobis distance of each sample to each mean, (N, K)."""
        lengths_K = (self.white_means_KD**2).sum(axis=1)
        parts = [np.empty((0, len(lengths_K)))]
        for moved_ND in moved_chunks(x_ND, self.centre_D):
            white_ND = whiten(self.factor_DD, moved_ND)
            crossed_NK = white_ND @ self.white_means_KD.T
            squares_N = np.einsum("nd,nd->n", white_ND, white_ND)
            parts.append(np.maximum(squares_N[:, None] - 2 * crossed_NK + lengths_K, 0.0))
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Moments:
    """What densities are made of: class means (K, D), class sizes, and scatter matrices as their lower triangles."""

    means_KD: Array
    counts_K: NDArray[np.int64]
    within_DD: Array  # sum of squares about the class means

    @property
    def centre_D(self) -> Array:
        """The mean of all samples."""
        return self.counts_K @ self.means_KD / self.counts_K.sum()

    @property
    def total_DD(self) -> Array:
        """Sum of squares about the centre: within and between the classes, lower triangle."""
        apart_KD = (self.means_KD - self.centre_D) * np.sqrt(self.counts_K)[:, None]
        return self.within_DD + np.tril(apart_KD.T @ apart_KD)


def moments(x_ND: NDArray[np.floating[Any]], labels_N: NDArray[np.integer[Any]]) -> Moments:
    """Means and scatter of labelled samples; those with a negative label are left out.

    Raises ValueError with fewer than two labelled samples.
    """
    known_N = labels_N >= 0
    if known_N.sum() < 2:
        raise ValueError(f"a Gaussian needs at least 2 labelled samples, there are {int(known_N.sum())}")
    x_ND, labels_N = (x_ND, labels_N) if known_N.all() else (x_ND[known_N], labels_N[known_N])
    classes_K, inverse_N, counts_K = np.unique(labels_N, return_inverse=True, return_counts=True)
    origin_D = np.asarray(x_ND[:_CHUNK], dtype=np.float64).mean(axis=0)  # near the data, so that little cancels
    sums_KD, at = np.zeros((len(classes_K), x_ND.shape[1])), 0
    scatter_DD = np.zeros((x_ND.shape[1], x_ND.shape[1]), order="F")
    for moved_ND in moved_chunks(x_ND, origin_D):
        member_KN = np.arange(len(classes_K))[:, None] == inverse_N[at : at + len(moved_ND)]
        sums_KD += member_KN.astype(np.float64) @ moved_ND
        scatter_DD = dsyrk(1.0, moved_ND.T, beta=1.0, c=scatter_DD, lower=1, overwrite_c=1)
        at += len(moved_ND)
    means_KD = sums_KD / counts_K[:, None]
    within_DD = scatter_DD - np.tril(means_KD.T @ (means_KD * counts_K[:, None]))
    return Moments(means_KD + origin_D, counts_K, within_DD)


def tied(found: Moments, shrinkage: float) -> TiedGaussian:
    """One covariance for all classes; `shrinkage` times the mean variance is added to its diagonal."""
    factor_DD = factor(found.within_DD, int(found.counts_K.sum()), shrinkage)
    return TiedGaussian(factor_DD, found.centre_D, whiten(factor_DD, found.means_KD - found.centre_D))


def background(found: Moments, shrinkage: float) -> TiedGaussian:
    """One mean and one covariance for all samples, whatever their class."""
    factor_DD = factor(found.total_DD, int(found.counts_K.sum()), shrinkage)
    return TiedGaussian(factor_DD, found.centre_D, np.zeros((1, len(found.centre_D))))


def fit_tied(x_ND: NDArray[np.floating[Any]], labels_N: NDArray[np.integer[Any]], shrinkage: float) -> TiedGaussian:
    """Fit class means and one covariance; `shrinkage` times the mean variance is added to its diagonal.

    Samples with a negative label are left out. Raises ValueError with fewer than two samples or when the
    covariance is not positive definite (then a larger shrinkage is needed).
    """
    return tied(moments(x_ND, labels_N), shrinkage)


def factor(scatter_DD: Array, count: int, shrinkage: float) -> Array:
    """Cholesky factor of scatter / count with a shrunk diagonal, from the lower triangle; ValueError if singular."""
    covariance_DD = scatter_DD / count
    covariance_DD[np.diag_indices_from(covariance_DD)] += shrinkage * np.trace(covariance_DD) / len(covariance_DD)
    try:
        return cholesky(covariance_DD, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError as error:
        raise SingularCovariance(
            f"covariance of {count} samples of {len(covariance_DD)} features is singular;"
            f" detector.shrinkage={shrinkage} is too small"
        ) from error


def whiten(factor_DD: Array, x_ND: Array) -> Array:
    """Solve L w = x for every row."""
    return solve_triangular(factor_DD, x_ND.T, lower=True, overwrite_b=True, check_finite=False).T


def moved_chunks(x_ND: NDArray[np.floating[Any]], origin_D: Array) -> Iterator[Array]:
    """x - origin in float64, some rows at a time."""
    for start in range(0, len(x_ND), _CHUNK):
        yield np.subtract(x_ND[start : start + _CHUNK], origin_D, dtype=np.float64)

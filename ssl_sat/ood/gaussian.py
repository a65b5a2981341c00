"""Gaussian densities with a tied covariance: means, one Cholesky factor, squared distances. Float64 throughout."""

# N samples, D features, K classes

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TiedGaussian:
    """Class means, already whitened, and the factor L of the covariance (lower triangular, L L' = covariance)."""

    factor_DD: Array
    centre_D: Array
    white_means_KD: Array

    def squared_distances(self, x_ND: Array) -> Array:
        """Squared Mahalanobis distance of each sample to each mean, (N, K)."""
        white_ND = _whiten(self.factor_DD, x_ND - self.centre_D)
        return np.stack([((white_ND - mean_D) ** 2).sum(axis=1) for mean_D in self.white_means_KD], axis=1)


def fit_tied(x_ND: NDArray[np.floating], labels_N: NDArray[np.integer], shrinkage: float) -> TiedGaussian:
    """Fit class means and one covariance; `shrinkage` times the mean variance is added to its diagonal.

    Samples with a negative label are left out. Raises ValueError with fewer than two samples or when the
    covariance is not positive definite (then a larger shrinkage is needed).
    """
    known_N = labels_N >= 0
    x_ND, labels_N = np.asarray(x_ND, dtype=np.float64)[known_N], labels_N[known_N]
    if len(x_ND) < 2:
        raise ValueError(f"a Gaussian needs at least 2 labelled samples, there are {len(x_ND)}")
    classes_K, inverse_N = np.unique(labels_N, return_inverse=True)
    means_KD = np.stack([x_ND[inverse_N == k].mean(axis=0) for k in range(len(classes_K))])
    residual_ND = x_ND - means_KD[inverse_N]
    covariance_DD = residual_ND.T @ residual_ND / len(x_ND)
    covariance_DD[np.diag_indices_from(covariance_DD)] += shrinkage * np.trace(covariance_DD) / x_ND.shape[1]
    try:
        factor_DD = cholesky(covariance_DD, lower=True)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"covariance of {x_ND.shape} features is singular; shrinkage {shrinkage} is too small"
        ) from error
    centre_D = x_ND.mean(axis=0)
    return TiedGaussian(factor_DD, centre_D, _whiten(factor_DD, means_KD - centre_D))


def _whiten(factor_DD: Array, x_ND: Array) -> Array:
    return solve_triangular(factor_DD, x_ND.T, lower=True).T

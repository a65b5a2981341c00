"""Density of features under one Gaussian a class (DDU; Mukhoti et al. 2023, section 4, 'GDA').

    score = -log sum_k pi_k Normal(h; mu_k, S_k)

with the class's share pi_k, mean mu_k and covariance S_k of the training features. Where a class has fewer samples than
features its covariance has no inverse; DDU adds the smallest jitter that helps, we add `shrinkage` times the mean
variance to the diagonal, always, so that the score does not change by jumps.
"""  # fmt: skip

# N samples, D features, K classes

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ssl_sat.ood.contract import Fitted, NotApplicable, PredictionsLike, require_labels, require_train
from ssl_sat.ood.gaussian import TiedGaussian, fit_tied
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import GaussianDensitySpec


@dataclass(frozen=True)
class GaussianDensity:
    """Minus the log density of a mixture with a full covariance a class."""

    spec: GaussianDensitySpec
    name: str = "gaussian_density"
    needs: str = "features"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Fit a mean and a covariance a class; NotApplicable for a class of one sample."""
        require_train(train, self.name)
        labels_N = require_labels(train, self.name)
        classes_K, counts_K = np.unique(labels_N[labels_N >= 0], return_counts=True)
        if counts_K.min() < 2:
            raise NotApplicable(f"detector '{self.name}' needs 2 training samples of every class; one has only 1")
        parts = []
        for label, count in zip(classes_K, counts_K, strict=True):
            own_N = np.flatnonzero(labels_N == label)
            gaussian = fit_tied(train.features_ND[own_N], np.zeros(len(own_N), np.int64), self.spec.shrinkage)
            parts.append((math.log(count / counts_K.sum()), gaussian))

        def scores(predictions: PredictionsLike) -> Scores:
            log_density_NK = np.stack([share + log_density(g, predictions.features_ND) for share, g in parts], axis=1)
            return Scores(self.name, -logsumexp(log_density_NK, axis=1))

        return scores


def log_density(gaussian: TiedGaussian, x_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log density of each sample under a Gaussian with one mean."""
    half_log_det = np.log(np.diag(gaussian.factor_DD)).sum()
    constant = half_log_det + 0.5 * x_ND.shape[1] * math.log(2 * math.pi)
    return -0.5 * gaussian.squared_distances(x_ND)[:, 0] - constant


def build(spec: GaussianDensitySpec) -> GaussianDensity:
    """Build the detector."""
    return GaussianDensity(spec)

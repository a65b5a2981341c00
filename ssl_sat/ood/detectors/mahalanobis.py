"""Mahalanobis distance in feature space (Lee et al. 2018, section 2.1, without their input noise)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_sat.ood.contract import Fitted, PredictionsLike, require_train
from ssl_sat.ood.gaussian import fit_tied
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import MahalanobisSpec


@dataclass(frozen=True)
class Mahalanobis:
    """Smallest squared distance to a class mean under the covariance that all classes share."""

    spec: MahalanobisSpec
    name: str = "mahalanobis"
    needs: str = "features"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Fit means and covariance on the labelled training features."""
        require_train(train, self.name)
        labels_N = np.asarray(train.labels_N)
        if labels_N.ndim != 1:
            raise ValueError(f"detector '{self.name}' needs one label per sample, not labels of shape {labels_N.shape}")
        gaussian = fit_tied(train.features_ND, labels_N, self.spec.shrinkage)

        def scores(predictions: PredictionsLike) -> Scores:
            return Scores(
                self.name, gaussian.squared_distances(np.asarray(predictions.features_ND, dtype=np.float64)).min(axis=1)
            )

        return scores


def build(spec: MahalanobisSpec) -> Mahalanobis:
    """Build the detector."""
    return Mahalanobis(spec)

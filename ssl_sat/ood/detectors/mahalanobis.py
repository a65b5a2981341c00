"""Mahalanobis distance in feature space, plain and relative.

    mahalanobis             min_k (h - mu_k)' S^-1 (h - mu_k)    (Lee et al. 2018, section 2.1, without input noise)
    relative_mahalanobis    that, less (h - mu_0)' S_0^-1 (h - mu_0)     (Ren et al. 2021, equation 3)

mu_k are the class means, S the covariance about them, shared by all classes; mu_0 and S_0 the mean and covariance of
all training samples. Means and covariances divide by n.
"""  # fmt: skip

from __future__ import annotations

from dataclasses import dataclass

from ssl_sat.ood.contract import Fitted, PredictionsLike, require_labels, require_train
from ssl_sat.ood.gaussian import background, moments, tied
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import MahalanobisSpec, RelativeMahalanobisSpec


@dataclass(frozen=True)
class Mahalanobis:
    """Smallest squared distance to a class mean under the covariance that all classes share."""

    spec: MahalanobisSpec | RelativeMahalanobisSpec
    needs: str = "features"

    @property
    def name(self) -> str:
        """That of the spec."""
        return self.spec.name

    def fit(self, train: PredictionsLike) -> Fitted:
        """Fit means and covariances on the labelled training features."""
        require_train(train, self.name)
        found = moments(train.features_ND, require_labels(train, self.name))
        by_class = tied(found, self.spec.shrinkage)
        everything = background(found, self.spec.shrinkage) if self.name == "relative_mahalanobis" else None

        def scores(predictions: PredictionsLike) -> Scores:
            distances_N = by_class.squared_distances(predictions.features_ND).min(axis=1)
            if everything is not None:
                distances_N = distances_N - everything.squared_distances(predictions.features_ND)[:, 0]
            return Scores(self.name, distances_N)

        return scores


def build(spec: MahalanobisSpec | RelativeMahalanobisSpec) -> Mahalanobis:
    """Build the detector."""
    return Mahalanobis(spec)

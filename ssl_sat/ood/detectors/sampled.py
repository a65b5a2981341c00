"""Scores from Monte-Carlo dropout: mutual information and predictive entropy."""

from __future__ import annotations

from dataclasses import dataclass

from ssl_sat.ood.contract import Fitted, PredictionsLike, require_mc, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import MutualInformationSpec, PredictiveEntropySpec


@dataclass(frozen=True)
class SampledDetector:
    """Reads one statistic of the dropout passes; nothing is learned in `fit`."""

    name: str
    needs: str = "mc"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Check the split, and return the score."""
        require_train(train, self.name)
        return self._scores

    def _scores(self, predictions: PredictionsLike) -> Scores:
        return Scores(self.name, getattr(require_mc(predictions, self.name), f"{self.name}_N"))


def build(spec: MutualInformationSpec | PredictiveEntropySpec) -> SampledDetector:
    """Build the detector that `spec` names."""
    return SampledDetector(spec.name)

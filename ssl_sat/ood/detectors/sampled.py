"""Scores from several passes: Monte-Carlo dropout, or the members of a deep ensemble.

With p_t the softmax of pass t and p its mean over T passes:

    predictive_entropy    H = -sum_k p_k log p_k
    expected_entropy      E = mean_t H(p_t)
    mutual_information    H - E, between label and mask (BALD; Houlsby et al. 2011; Gal et al. 2017)
    variance              mean_k var_t p_tk (Kendall et al. 2015, Bayesian SegNet), over T, not T - 1

and the same over the members of an ensemble (Lakshminarayanan et al. 2017) as `ensemble_...`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssl_sat.ood.contract import Fitted, PredictionsLike, require_mc, require_members, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.spec import Spec

_ENSEMBLE = "ensemble_"
_FIELDS = {
    "mutual_information": "mutual_information_N",
    "predictive_entropy": "predictive_entropy_N",
    "expected_entropy": "expected_entropy_N",
    "variance": "pass_variance_N",
}


@dataclass(frozen=True)
class SampledDetector:
    """Reads one statistic of the passes; nothing is learned in `fit`."""

    name: str

    @property
    def needs(self) -> str:
        """Dropout passes, or the members of an ensemble."""
        return "members" if self.name.startswith(_ENSEMBLE) else "mc"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Check the split, and return the score."""
        require_train(train, self.name)
        return self._scores

    def _scores(self, predictions: PredictionsLike) -> Scores:
        require = require_members if self.needs == "members" else require_mc
        return Scores(self.name, getattr(require(predictions, self.name), _FIELDS[self.name.removeprefix(_ENSEMBLE)]))


def build(spec: Spec) -> SampledDetector:
    """Build the detector that `spec` names."""
    return SampledDetector(spec.name)  # type: ignore[attr-defined]

"""A threshold with a guarantee: split conformal acceptance of in-distribution samples.

From the scores of n calibration samples, exchangeable with the in-distribution samples to come, the threshold is the
k-th smallest, k = ceil((n + 1) (1 - alpha)); a sample is accepted when its score is at most that. Then

    P(a new in-distribution sample is accepted) >= 1 - alpha,   and   = k / (n + 1) <= 1 - alpha + 1 / (n + 1)

where scores have no ties (ties only add acceptance). Source: Vovk, Gammerman & Shafer 2005; Lei et al. 2018, theorem
2.2; as a test for outliers, Bates et al. 2023, 'Testing for outliers with conformal p-values', section 2. The level
k / n = ceil((n + 1)(1 - alpha)) / n is the quantile of the calibration scores that is taken. The probability is over
calibration and new sample together. Given the calibration set, the share accepted follows Beta(k, n + 1 - k) (Vovk
2012; Angelopoulos & Bates 2023, section 3.2), which `coverage_interval` reads.

Nothing is promised for samples that are out of distribution, nor for in-distribution ones from elsewhere (another
place, season or decode path): they are not exchangeable with the calibration set.
"""

# n calibration samples, M samples to judge

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ssl_sat.ood.score import Scores
from ssl_sat.spec import ConfigError

_SLACK = 1e-9  # (n + 1)(1 - alpha) in binary may lie a hair above a whole number


@dataclass(frozen=True, eq=False)
class Threshold:
    """Accept scores <= `value`. `calibration_n`: the sorted scores it was taken from, for p values."""

    detector: str
    alpha: float
    rank: int
    value: float
    calibration_n: NDArray[np.float64]

    def accepts(self, scores: Scores) -> NDArray[np.bool_]:
        """Whether each sample is taken for in-distribution; ValueError for another detector's scores."""
        self._check(scores)
        return scores.values <= self.value

    def p_values(self, scores: Scores) -> NDArray[np.float64]:
        """(1 + number of calibration scores >= s) / (n + 1): at most alpha exactly where the sample is rejected.

        For in-distribution samples P(p <= t) <= t at every t (Bates et al. 2023, equation 4).
        """
        self._check(scores)
        n = len(self.calibration_n)
        at_least = n - np.searchsorted(self.calibration_n, scores.values, side="left")
        return (1 + at_least) / (n + 1)

    def _check(self, scores: Scores) -> None:
        if scores.detector != self.detector:
            raise ValueError(f"a threshold of '{self.detector}' does not judge scores of '{scores.detector}'")


def conformal_threshold(calibration: Scores, alpha: float) -> Threshold:
    """The threshold that rejects at most a share `alpha` of in-distribution samples.

    Raises ConfigError when there are too few calibration samples for it: n >= 1 / alpha - 1 is needed.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    n = len(calibration)
    rank = rank_of(n, alpha)
    if rank > n:
        needed = math.ceil(1 / alpha - 1 - _SLACK)
        raise ConfigError(
            f"threshold.alpha={alpha:g} needs at least {needed} calibration patches, there are {n}. Choose a larger "
            f"alpha, or fine-tune on a pack with a larger val split."
        )
    ordered_n = np.sort(calibration.values)
    return Threshold(calibration.detector, alpha, rank, float(ordered_n[rank - 1]), ordered_n)


def rank_of(n: int, alpha: float) -> int:
    """k = ceil((n + 1) (1 - alpha)); above n there is no such threshold."""
    return math.ceil((n + 1) * (1 - alpha) - _SLACK)


def coverage_interval(n: int, rank: int, level: float = 0.95) -> tuple[float, float]:
    """Between which shares of accepted in-distribution samples the truth lies for this share of calibration sets."""
    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], rank, n + 1 - rank)
    return float(low), float(high)

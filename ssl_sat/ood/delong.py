"""Intervals of AUROC without resampling (DeLong et al. 1988), of one detector, of a difference, and over seeds.

The component of a sample is its share of the other group that it is rightly beyond; their variance is that of the area.
Over seeds, networks of one recipe score the same samples. The variance of the mean of S areas is that of the samples,
from the components averaged over the seeds, which no number of seeds makes smaller, and that of the seeds, s^2 / S.
"""

# n ID samples, m OOD samples, S seeds

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata, t

from ssl_sat.ood.curves import paired_values
from ssl_sat.ood.score import BadScores, Scores

Array = NDArray[np.float64]
Pair = tuple[Scores, Scores]  # of one detector, in- and out-of-distribution


@dataclass(frozen=True)
class Interval:
    """An estimate, its standard error, and the two ends of its confidence interval."""

    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Components:
    """AUROC and what it is the mean of, over the ID and over the OOD samples."""

    area: float
    id_n: Array
    ood_m: Array

    @property
    def variance(self) -> float:
        """DeLong's variance of the area, or of a difference of areas."""
        return float(self.id_n.var(ddof=1) / len(self.id_n) + self.ood_m.var(ddof=1) / len(self.ood_m))

    def less(self, other: Components) -> Components:
        """The components of a difference; ValueError when the samples are not the same."""
        if len(self.id_n) != len(other.id_n) or len(self.ood_m) != len(other.ood_m):
            raise ValueError("a paired difference needs both detectors on the same samples")
        return Components(self.area - other.area, self.id_n - other.id_n, self.ood_m - other.ood_m)


def components(id_scores: Scores, ood_scores: Scores) -> Components:
    """By ranks, O(n log n) (Sun & Xu 2014); BadScores with fewer than two samples on a side."""
    id_n, ood_m = paired_values(id_scores, ood_scores)
    n, m = len(id_n), len(ood_m)
    if min(n, m) < 2:
        raise BadScores(f"a variance needs at least 2 samples on each side, there are {n} ID and {m} OOD")
    ranks = rankdata(np.concatenate([id_n, ood_m]))
    ood_parts_m = (ranks[n:] - rankdata(ood_m)) / n
    id_parts_n = 1 - (ranks[:n] - rankdata(id_n)) / m
    return Components(exact_area(id_n, ood_m), id_parts_n, ood_parts_m)


def exact_area(id_n: Array, ood_m: Array) -> float:
    """P(ood > id) + P(equal) / 2 from whole numbers."""
    id_n = np.sort(id_n)
    below = int(np.searchsorted(id_n, ood_m, side="left").sum())
    below_or_equal = int(np.searchsorted(id_n, ood_m, side="right").sum())
    return (below + below_or_equal) / (2 * len(id_n) * len(ood_m))


def delong(id_scores: Scores, ood_scores: Scores, level: float = 0.95) -> Interval:
    """AUROC with DeLong's standard error and an interval on the logit scale, so that it stays inside [0, 1].

    When the samples are perfectly apart the variance estimate is 0 and says nothing; the open end is then
    Clopper & Pearson's for min(n, m) comparisons out of min(n, m), which errs on the wide side.
    """
    found = components(id_scores, ood_scores)
    return area_interval(found.area, math.sqrt(found.variance), min(len(found.id_n), len(found.ood_m)), level)


def area_interval(area: float, se: float, smaller: int, level: float, quantile: float | None = None) -> Interval:
    """The interval of an area on the logit scale; `smaller` is the smaller number of samples, for areas of 0 and 1."""
    if area in (0.0, 1.0):
        reach = ((1 - level) / 2) ** (1 / smaller)
        return Interval(area, se, reach if area == 1 else 0.0, 1.0 if area == 1 else 1 - reach)
    centre, half = math.log(area / (1 - area)), (quantile or norm.ppf(0.5 + level / 2)) * se / (area * (1 - area))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (centre - half, centre + half))
    return Interval(area, se, low, high)


def delong_difference(first: Pair, second: Pair, level: float = 0.95) -> tuple[Interval, float]:
    """AUROC of `first` less that of `second` (each ID, OOD) on the same samples in the same order, and the p value.

    Raises ValueError when the sizes differ. A difference without variance is judged as in `difference_over_seeds`.
    """
    return difference_over_seeds([components(*first)], [components(*second)], level)


def delong_over_seeds(pairs: Sequence[Pair], level: float = 0.95) -> Interval:
    """Mean AUROC of networks that differ in their seed, on the same samples; its error has both sources of chance.

    The interval is on the logit scale, with Student's t of Welch and Satterthwaite's degrees of freedom.
    """
    found = [components(*pair) for pair in pairs]
    mean = _averaged(found)
    se, freedom = _both_sources(found, mean)
    quantile = float(t.ppf(0.5 + level / 2, freedom))
    return area_interval(mean.area, se, min(len(mean.id_n), len(mean.ood_m)), level, quantile)


def difference_over_seeds(
    first: Sequence[Components], second: Sequence[Components], level: float = 0.95
) -> tuple[Interval, float]:
    """Mean difference of areas, seed by seed, with its interval and two-sided p value; one seed gives DeLong's own.

    Where every sample says the same (two detectors that are both perfect, or a perfect one against one that is
    perfectly wrong) the variance estimate is 0 and says nothing: p is then that of a sign test on the smaller group,
    2^(1 - min(n, m)), or 1 without a difference, and the interval reaches as far as Clopper & Pearson's of that many.
    """
    each = [a.less(b) for a, b in zip(first, second, strict=True)]
    mean = _averaged(each)
    se, freedom = _both_sources(each, mean)
    if se == 0:
        return _without_variance(mean, level)
    half = float(t.ppf(0.5 + level / 2, freedom)) * se
    low, high = max(-1.0, mean.area - half), min(1.0, mean.area + half)
    return Interval(mean.area, se, low, high), float(2 * t.sf(abs(mean.area) / se, freedom))


def _without_variance(mean: Components, level: float) -> tuple[Interval, float]:
    smaller = min(len(mean.id_n), len(mean.ood_m))
    reach = 1 - ((1 - level) / 2) ** (1 / smaller)
    ends = (max(-1.0, mean.area - reach), min(1.0, mean.area + reach))
    return Interval(mean.area, 0.0, *ends), 1.0 if mean.area == 0 else 2.0 ** (1 - smaller)


def smallest_difference(se: float, level: float = 0.95, power: float = 0.8) -> float | None:
    """The smallest true difference that a comparison with this standard error shows with this power; None for se = 0.

    No variance among the samples at hand is not unlimited power: nothing is known then.
    """
    if se == 0:
        return None
    return float((norm.ppf(0.5 + level / 2) + norm.ppf(power)) * se)


def _averaged(found: Sequence[Components]) -> Components:
    sizes = {(len(each.id_n), len(each.ood_m)) for each in found}
    if len(sizes) != 1:
        raise ValueError(f"seeds must score the same samples; there are sizes {sorted(sizes)}")
    area = math.fsum(each.area for each in found) / len(found)
    return Components(area, np.mean([e.id_n for e in found], axis=0), np.mean([e.ood_m for e in found], axis=0))


def _both_sources(found: Sequence[Components], mean: Components) -> tuple[float, float]:
    """Standard error of the mean over seeds, and its degrees of freedom (infinite for one seed)."""
    seeds = len(found)
    if seeds == 1:
        return math.sqrt(mean.variance), math.inf
    between = float(np.var([each.area for each in found], ddof=1)) / seeds
    total = mean.variance + between
    return math.sqrt(total), total**2 / (between**2 / (seeds - 1)) if between > 0 else math.inf

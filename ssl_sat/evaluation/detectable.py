"""Means over seeds, paired differences, and the smallest difference that so many seeds and patches can show.

Two sources of chance stand apart. *Over seeds*: another initialisation and order on the same test patches; Student's t
on the differences of runs that share a seed. *Over patches*: other test patches for the same networks; the standard
error of the per-patch differences (McNemar's setting, Agresti 2013 section 11.1). A difference is worth its name where
it exceeds what both could have shown.

Smallest detectable difference (minimum detectable effect, Bloom 1995, Evaluation Review 19(5)): the true difference
that a two-sided test at level 5 % finds with probability 80 %. Over patches it is (z_.975 + z_.80) SE. Over few seeds
the normal approximation is far off, so the noncentral t distribution is inverted instead (Cohen 1988, section 2.3):
the delta with P(|T| > t_.975,n-1) = .80 for T of noncentrality sqrt(n) delta / sd. The sd is the sample's, taken as
known; with three seeds it is itself uncertain by a factor of two.
"""

# N patches, S seeds

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import ncf, norm, t

from ssl_sat.ood import comparisons

LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Mean:
    """Mean of n numbers; sd is the sample's (n - 1), half_width that of Student's 95 % interval, None for n = 1."""

    n: int
    mean: float
    sd: float | None
    half_width: float | None


def mean_of(values: Sequence[float]) -> Mean:
    """Mean, deviation and interval of at least one number."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Mean(1, mean, None, None)
    sd = statistics.stdev(values)
    return Mean(n, mean, sd, float(t.ppf(0.5 + LEVEL / 2, n - 1)) * sd / math.sqrt(n))


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test; None for fewer than two pairs or no spread."""
    found = mean_of(differences)
    if found.sd is None or found.sd == 0:
        return None
    return float(2 * t.sf(abs(found.mean) / (found.sd / math.sqrt(found.n)), found.n - 1))


def detectable_over_seeds(sd: float, n: int, power: float = POWER, level: float = LEVEL) -> float:
    """The true mean difference that a paired t-test of n pairs with this deviation finds with probability `power`."""
    if n < 2:
        raise ValueError("one pair has no deviation")
    if sd == 0:
        return 0.0
    critical = float(t.ppf(0.5 + level / 2, n - 1))

    def missing(shift: float) -> float:  # T squared is noncentral F, which has no cancelling tails
        return float(ncf.sf(critical**2, 1, n - 1, shift**2)) - power

    return float(brentq(missing, 1e-6, 4.0 * critical + 4.0)) * sd / math.sqrt(n)


def detectable_over_patches(standard_error: float, power: float = POWER, level: float = LEVEL) -> float:
    """The true difference that a z-test with this standard error finds with probability `power`."""
    return float(norm.ppf(0.5 + level / 2) + norm.ppf(power)) * standard_error


def paired_standard_error(difference_N: NDArray[np.floating]) -> float:
    """Standard error of the mean of per-patch differences; for one seed sqrt((psi - d^2) / n), psi the discordance."""
    return float(np.std(difference_N, ddof=1) / math.sqrt(len(difference_N)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number (Holm 1979); None stays None and counts for nothing."""
    adjusted = iter(comparisons.holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]

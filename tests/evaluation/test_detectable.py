"""Smallest detectable differences against simulation and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ssl_sat.evaluation import detectable


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_the_t_test_finds_the_detectable_difference_four_times_in_five(n: int) -> None:
    sd = 0.02
    delta = detectable.detectable_over_seeds(sd, n)
    samples = np.random.default_rng(n).normal(delta, sd, (40_000, n))
    p = stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.80, abs=0.01)
    assert detectable.paired_p(list(samples[0])) == pytest.approx(p[0])


def test_cohens_table_of_the_paired_t_test() -> None:
    # Cohen 1988, and G*Power: n = 34 pairs find d = .5 with power .80 (two-sided, 5 %)
    assert detectable.detectable_over_seeds(1.0, 34) == pytest.approx(0.5, abs=0.01)


def test_many_seeds_agree_with_the_normal_formula() -> None:
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(2000)
    assert detectable.detectable_over_seeds(1.0, 2000) == pytest.approx(expected, rel=1e-3)
    assert detectable.detectable_over_patches(1 / math.sqrt(2000)) == pytest.approx(expected)


def test_mcnemar_finds_the_detectable_difference_four_times_in_five() -> None:
    n, only_first = 4000, 0.05
    rng = np.random.default_rng(0)
    only_second = 0.0365  # fixed point of delta = detectable(sqrt((psi - delta^2) / n)) for this n, found below
    for _ in range(50):
        psi, delta = only_first + only_second, only_first - only_second
        only_second = only_first - detectable.detectable_over_patches(math.sqrt((psi - delta**2) / n))
    counts = rng.multinomial(n, [only_first, only_second, 1 - only_first - only_second], 20_000)
    b, c = counts[:, 0], counts[:, 1]
    rejected = (b - c) ** 2 / (b + c) > stats.chi2.ppf(0.95, 1)
    assert rejected.mean() == pytest.approx(0.80, abs=0.015)


def test_the_standard_error_of_one_seed_is_that_of_discordant_pairs() -> None:
    difference = np.repeat([1.0, -1.0, 0.0], [30, 10, 960])
    psi, d = 0.04, 0.02
    assert detectable.paired_standard_error(difference) == pytest.approx(math.sqrt((psi - d**2) / 999), rel=1e-9)


def test_means_and_intervals_are_students() -> None:
    values = [0.91, 0.93, 0.95]
    found = detectable.mean_of(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean - (found.half_width or 0), found.mean + (found.half_width or 0)) == pytest.approx((low, high))
    assert detectable.mean_of([0.5]) == detectable.Mean(1, 0.5, None, None)
    assert detectable.paired_p([0.1]) is None and detectable.paired_p([0.1, 0.1]) is None
    assert detectable.detectable_over_seeds(0.0, 3) == 0.0


def test_holm_as_published() -> None:
    assert detectable.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert detectable.holm([None, 0.04, None]) == [None, 0.04, None]

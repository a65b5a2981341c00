"""The threshold's finite-sample guarantee: the closed form of its rank, its coverage law by simulation, its errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, kstest

from ssl_sat.ood.conformal import conformal_threshold, coverage_interval, rank_of
from ssl_sat.ood.score import Scores
from ssl_sat.spec import ConfigError


def scores(values: np.ndarray, detector: str = "msp") -> Scores:
    return Scores(detector, values)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [(19, 0.05, 19), (20, 0.05, 20), (99, 0.05, 95), (999, 0.1, 900), (9, 0.1, 9), (1000, 0.05, 951)],
)
def test_rank_is_ceil_of_n_plus_one_times_one_minus_alpha(n: int, alpha: float, rank: int) -> None:
    assert rank_of(n, alpha) == rank
    values = np.random.default_rng(n).permutation(n).astype(float)
    assert conformal_threshold(scores(values), alpha).value == rank - 1  # the rank-th smallest of 0 ... n - 1


def test_coverage_follows_its_law() -> None:
    """With uniform scores the share accepted given the calibration set is the threshold itself: Beta(k, n + 1 - k)."""
    n, alpha, trials = 39, 0.1, 4000
    rng = np.random.default_rng(0)
    covered = np.array([conformal_threshold(scores(rng.random(n)), alpha).value for _ in range(trials)])
    k = rank_of(n, alpha)
    assert kstest(covered, beta(k, n + 1 - k).cdf).pvalue > 0.01
    assert covered.mean() == pytest.approx(k / (n + 1), abs=4 * covered.std() / np.sqrt(trials))
    assert 1 - alpha <= k / (n + 1) <= 1 - alpha + 1 / (n + 1)
    low, high = coverage_interval(n, k)
    assert ((low <= covered) & (covered <= high)).mean() == pytest.approx(0.95, abs=0.015)


def test_a_new_sample_is_rejected_with_probability_alpha_at_most() -> None:
    """Marginally, over calibration sets and new samples alike; heavy ties only accept more."""
    rng = np.random.default_rng(1)
    for draw, expected in ((rng.standard_normal, 0.1), (lambda size: rng.integers(0, 3, size).astype(float), 0.0)):
        rejected = []
        for _ in range(3000):
            threshold = conformal_threshold(scores(draw(29)), 0.1)
            rejected.append(not threshold.accepts(scores(draw(1)))[0])
        assert np.mean(rejected) <= 0.1 + 0.02
        assert np.mean(rejected) == pytest.approx(expected, abs=0.02)


def test_p_values_decide_as_the_threshold_does_and_are_uniform() -> None:
    rng = np.random.default_rng(2)
    for n, alpha in ((19, 0.05), (137, 0.07), (400, 0.2)):
        calibration = np.round(rng.standard_normal(n), 1)  # with ties
        threshold = conformal_threshold(scores(calibration), alpha)
        new = scores(np.round(rng.standard_normal(500) * 2, 1))
        p = threshold.p_values(new)
        np.testing.assert_array_equal(threshold.accepts(new), p > alpha)
        brute = [(1 + (calibration >= s).sum()) / (n + 1) for s in new.values]
        np.testing.assert_allclose(p, brute)
    p = [conformal_threshold(scores(rng.random(50)), 0.1).p_values(scores(rng.random(1)))[0] for _ in range(2000)]
    assert all(np.mean(np.array(p) <= t) <= t + 0.03 for t in (0.05, 0.25, 0.5, 0.9))


def test_too_few_calibration_samples_and_other_scores_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"alpha=0.05 needs at least 19 calibration patches, there are 18"):
        conformal_threshold(scores(np.arange(18.0)), 0.05)
    with pytest.raises(ConfigError, match="at least 99"):
        conformal_threshold(scores(np.arange(98.0)), 0.01)
    conformal_threshold(scores(np.arange(99.0)), 0.01)
    with pytest.raises(ValueError, match="of 'msp' does not judge scores of 'knn'"):
        conformal_threshold(scores(np.arange(99.0)), 0.01).accepts(scores(np.zeros(1), "knn"))

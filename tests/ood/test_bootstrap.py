"""Resampling: weights are repetitions, clusters move together, seeds are drawn outside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from ssl_sat.ood import metrics
from ssl_sat.ood.bootstrap import bootstrap
from ssl_sat.ood.curves import Ranked
from ssl_sat.ood.score import BadScores, Scores


def pair(seed: int, n: int = 90, m: int = 70, shift: float = 1.0) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    return Scores("d", rng.normal(0, 1, n).round(1)), Scores("d", rng.normal(shift, 1, m).round(1))


def test_weights_are_repetitions() -> None:
    inside, outside = pair(0)
    rng = np.random.default_rng(1)
    id_weights, ood_weights = rng.integers(0, 4, 90), rng.integers(0, 4, 70)
    counts = Ranked(inside, outside).counts(id_weights, ood_weights)
    repeated = (
        Scores("d", np.repeat(inside.values, id_weights)),
        Scores("d", np.repeat(outside.values, ood_weights)),
    )
    for name, metric in metrics.OF_COUNTS.items():
        assert metric(counts) == pytest.approx(getattr(metrics, name)(*repeated), abs=1e-14), name


def test_turned_counts_are_those_of_negated_scores() -> None:
    inside, outside = pair(0)
    turned = Ranked(inside, outside).counts().turned()
    negated = Ranked(Scores("d", -outside.values), Scores("d", -inside.values)).counts()
    assert np.array_equal(turned.true_T, negated.true_T) and np.array_equal(turned.false_T, negated.false_T)


def test_single_samples_give_delongs_error() -> None:
    found = bootstrap([pair(0, 300, 200)], replicates=600)
    exact = metrics.delong(*pair(0, 300, 200))
    assert found["auroc"].value == pytest.approx(exact.value, abs=1e-14)
    assert found["auroc"].se == pytest.approx(exact.se, rel=0.12)
    assert found["auroc"].low == pytest.approx(exact.low, abs=0.02)
    for name, interval in found.items():
        assert interval.value == pytest.approx(getattr(metrics, name)(*pair(0, 300, 200)))
        assert interval.low <= interval.value <= interval.high


def test_draws_are_seeded() -> None:
    once, again, other = (bootstrap([pair(0)], replicates=50, seed=seed) for seed in (3, 3, 4))
    assert once == again != other


def clustered(rng: np.random.Generator, clusters: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    names = np.repeat(np.arange(clusters), size)
    return names, rng.normal(0, 0.7, clusters)[names] + rng.normal(0, 0.7, clusters * size)


def test_clusters_cover_the_truth_where_single_samples_do_not() -> None:
    rng = np.random.default_rng(0)
    truth, hits = float(norm.cdf(1 / math.sqrt(2 * 0.98))), np.zeros(2)
    for _ in range(120):
        (id_names, id_n), (ood_names, ood_m) = clustered(rng, 25, 8), clustered(rng, 25, 8)
        scores = Scores("d", id_n), Scores("d", ood_m + 1)
        for k, names in enumerate(({}, {"id_clusters_n": id_names, "ood_clusters_m": ood_names})):
            found = bootstrap([scores], **names, metrics=["auroc"], replicates=120)["auroc"]  # type: ignore[arg-type]
            hits[k] += found.low <= truth <= found.high
    assert hits[0] / 120 < 0.8 and hits[1] / 120 > 0.87


def test_seeds_are_an_outer_level() -> None:
    """Seeds that disagree widen the interval; copies of one seed leave it."""
    rng = np.random.default_rng(0)
    base_n, base_m = rng.normal(0, 1, 200), rng.normal(1, 1, 200)
    same = [(Scores("d", base_n), Scores("d", base_m))] * 4
    apart = [(Scores("d", base_n), Scores("d", base_m + shift)) for shift in (-0.8, -0.2, 0.3, 0.9)]
    one, copies, seeds = (
        bootstrap(each, metrics=["auroc"], replicates=300)["auroc"] for each in (same[:1], same, apart)
    )
    assert copies.se == pytest.approx(one.se, rel=0.15)
    assert seeds.se > 1.3 * one.se
    expected = metrics.delong_over_seeds(apart)
    assert seeds.value == pytest.approx(expected.value)
    assert seeds.se == pytest.approx(expected.se, rel=0.25)


def test_what_cannot_be_resampled_is_named() -> None:
    one = np.zeros(90, dtype=int)
    with pytest.raises(BadScores, match="all 90 ID samples are of one cluster"):
        bootstrap([pair(0)], id_clusters_n=one)
    with pytest.raises(ValueError, match="89 clusters for 90 ID samples"):
        bootstrap([pair(0)], id_clusters_n=one[:-1])
    with pytest.raises(ValueError, match="same OOD samples"):
        bootstrap([pair(0), pair(1, m=69)])

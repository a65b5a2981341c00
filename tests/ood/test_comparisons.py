"""Many detectors and several seeds: Holm, paired DeLong, and the two sources of chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_rel

from ssl_sat.ood import delong
from ssl_sat.ood.comparisons import compare, holm
from ssl_sat.ood.metrics import auroc, delong_difference, delong_over_seeds, smallest_difference
from ssl_sat.ood.score import Scores

Pair = tuple[Scores, Scores]


def pair(rng: np.random.Generator, name: str, shift: float = 1.0, n: int = 80, m: int = 60) -> Pair:
    return Scores(name, rng.normal(0, 1, n)), Scores(name, rng.normal(shift, 1, m))


def test_holm_by_hand_and_by_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.3]) == [0.3] and holm([0.9, 0.8]) == [1.0, 1.0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 1, 6) ** 3
        adjusted = holm(p.tolist())
        for level in (0.01, 0.05, 0.2, 0.6):  # stepping down: reject while p_(k) <= level / (n - k + 1)
            rejected = set()
            for k, at in enumerate(np.argsort(p)):
                if p[at] > level / (6 - k):
                    break
                rejected.add(int(at))
            assert rejected == {k for k in range(6) if adjusted[k] <= level}
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_all_pairs_are_compared_and_the_adjustment_counts_them() -> None:
    rng = np.random.default_rng(1)
    base = pair(rng, "a")
    scores = {"a": base}
    for name, noise in (("b", 0.5), ("c", 2.0)):
        scores[name] = tuple(Scores(name, side.values + rng.normal(0, noise, len(side))) for side in base)  # type: ignore[assignment]
    found = compare(scores)
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for each in found:
        difference, p = delong_difference(scores[each.first], scores[each.second])
        assert (each.difference, each.p) == (difference, p)
        assert each.difference.value == pytest.approx(auroc(*scores[each.first]) - auroc(*scores[each.second]))
        assert each.smallest == smallest_difference(each.difference.se)
    assert [each.p_holm for each in found] == holm([each.p for each in found])
    against = compare(scores, against="a")
    assert [(each.first, each.second) for each in against] == [("b", "a"), ("c", "a")]
    assert against[1].difference.value == pytest.approx(-found[1].difference.value)


def test_one_seed_is_delongs_own_interval() -> None:
    rng = np.random.default_rng(2)
    one = pair(rng, "a")
    plain, over = delong.delong(*one), delong_over_seeds([one])
    assert (over.value, over.se) == (plain.value, plain.se)
    assert (over.low, over.high) == pytest.approx((plain.low, plain.high), abs=1e-12)


def test_equal_seeds_make_nothing_more_certain() -> None:
    """The samples are the same, so copies of one network leave the error where it was."""
    one = pair(np.random.default_rng(2), "a")
    assert delong_over_seeds([one] * 5).se == pytest.approx(delong.delong(*one).se)


def test_the_error_over_seeds_has_both_sources() -> None:
    """Brute force: variance of the samples by DeLong's covariances between seeds, and that of the areas over seeds."""
    rng = np.random.default_rng(3)
    base = pair(rng, "a")
    seeds = [tuple(Scores("a", side.values + rng.normal(0, 1, len(side))) for side in base) for _ in range(4)]
    wins = [(o.values[:, None] > i.values) + 0.5 * (o.values[:, None] == i.values) for i, o in seeds]
    id_part, ood_part = np.mean([w.mean(0) for w in wins], axis=0), np.mean([w.mean(1) for w in wins], axis=0)
    areas = [w.mean() for w in wins]
    expected = id_part.var(ddof=1) / 80 + ood_part.var(ddof=1) / 60 + np.var(areas, ddof=1) / 4
    found = delong_over_seeds(seeds)  # type: ignore[arg-type]
    assert found.value == pytest.approx(np.mean(areas)) and found.se**2 == pytest.approx(expected)
    assert found.low < found.value < found.high < 1


def test_intervals_over_seeds_cover_the_mean_over_all_seeds_and_samples() -> None:
    """Scores = sample + seed's noise; the truth is the area of the population. Ignoring the seeds covers too rarely."""
    rng, truth, hits, naive = np.random.default_rng(4), float(norm.cdf(1.0 / math.sqrt(2 * 1.5))), 0, 0
    for _ in range(300):
        base_n, base_m = rng.normal(0, 1, 60), rng.normal(1.0, 1, 60)
        seeds = []
        for _ in range(4):
            offset = rng.normal(0, 0.4)  # a seed that takes all OOD samples for more or less unusual
            seeds.append((Scores("a", base_n + rng.normal(0, 0.707, 60)),
                          Scores("a", base_m + offset + rng.normal(0, 0.707, 60))))  # fmt: skip
        found = delong_over_seeds(seeds)
        hits += found.low <= truth <= found.high
        one = delong.delong(*seeds[0])
        naive += one.low <= truth <= one.high
    assert hits / 300 > 0.91 > naive / 300


def test_paired_differences_over_seeds_become_a_paired_t_test_when_samples_abound() -> None:
    rng = np.random.default_rng(5)
    first, second = [], []
    for _ in range(5):
        first.append(pair(rng, "a", shift=1.0 + rng.normal(0, 0.3), n=20_000, m=20_000))
        second.append(pair(rng, "b", shift=1.2 + rng.normal(0, 0.3), n=20_000, m=20_000))
    found = compare({"a": first, "b": second})[0]
    expected = ttest_rel([auroc(*each) for each in first], [auroc(*each) for each in second])
    assert found.p == pytest.approx(expected.pvalue, rel=0.1)


def test_seeds_of_other_samples_are_refused() -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match=r"same samples; there are sizes \[\(79, 60\), \(80, 60\)\]"):
        delong_over_seeds([pair(rng, "a"), pair(rng, "a", n=79)])
    with pytest.raises(ValueError, match="shorter"):
        compare({"a": [pair(rng, "a")] * 2, "b": [pair(rng, "b")]})

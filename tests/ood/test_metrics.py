"""OOD metrics against scikit-learn, brute force and identities, with many ties."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from ssl_sat.ood import metrics
from ssl_sat.ood.score import Scores
from ssl_sat.spec import UserError

CASES = {
    "separable": lambda rng: (rng.normal(0, 1, 80), rng.normal(9, 1, 60)),
    "overlapping": lambda rng: (rng.normal(0, 1, 90), rng.normal(1, 2, 70)),
    "ties": lambda rng: (rng.integers(0, 5, 120).astype(float), rng.integers(1, 7, 60).astype(float)),
    "constant": lambda rng: (np.zeros(30), np.zeros(20)),
    "turned round": lambda rng: (rng.normal(2, 1, 50), rng.normal(0, 1, 50)),
}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest) -> tuple[Scores, Scores]:
    id_n, ood_m = CASES[request.param](np.random.default_rng(3))
    return Scores("d", id_n), Scores("d", ood_m)


def joined(pair: tuple[Scores, Scores]) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([0, 1], [len(pair[0]), len(pair[1])]), np.concatenate([pair[0].values, pair[1].values])


def test_areas_equal_scikit_learn(pair: tuple[Scores, Scores]) -> None:
    truth, values = joined(pair)
    assert metrics.auroc(*pair) == pytest.approx(oracle.roc_auc_score(truth, values), abs=1e-14)
    assert metrics.aupr_out(*pair) == pytest.approx(oracle.average_precision_score(truth, values), abs=1e-14)
    assert metrics.aupr_in(*pair) == pytest.approx(oracle.average_precision_score(1 - truth, -values), abs=1e-14)


def test_fpr_at_95_equals_the_first_point_of_the_curve(pair: tuple[Scores, Scores]) -> None:
    truth, values = joined(pair)
    for found, labels, signed in (
        (metrics.fpr_id_at_95tpr_ood(*pair), truth, values),
        (metrics.fpr_ood_at_95tpr_id(*pair), 1 - truth, -values),
    ):
        fpr, tpr, _ = oracle.roc_curve(labels, signed, drop_intermediate=False)
        assert found == pytest.approx(fpr[tpr >= 0.95 - 1e-12][0], abs=1e-14)


def test_detection_error_and_curve(pair: tuple[Scores, Scores]) -> None:
    truth, values = joined(pair)
    fpr, tpr, _ = oracle.roc_curve(truth, values, drop_intermediate=False)
    assert metrics.detection_error(*pair) == pytest.approx((0.5 * (1 - tpr + fpr)).min(), abs=1e-14)
    own_fpr, own_tpr = metrics.roc_curve(*pair)
    assert oracle.auc(own_fpr, own_tpr) == pytest.approx(metrics.auroc(*pair), abs=1e-14)


def brute_covariance(pairs: list[tuple[Scores, Scores]]) -> np.ndarray:
    """DeLong et al. 1988, equations 4 to 6, over all pairs of samples."""
    parts_id, parts_ood = [], []
    for id_scores, ood_scores in pairs:
        wins = (ood_scores.values[:, None] > id_scores.values) + 0.5 * (ood_scores.values[:, None] == id_scores.values)
        parts_id.append(wins.mean(0))
        parts_ood.append(wins.mean(1))
    return np.cov(parts_id) / len(parts_id[0]) + np.cov(parts_ood) / len(parts_ood[0])


def test_delong_equals_brute_force(pair: tuple[Scores, Scores]) -> None:
    found = metrics.delong(*pair)
    assert found.se**2 == pytest.approx(float(brute_covariance([pair])), abs=1e-15)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_paired_difference_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    id_n, ood_m = rng.normal(0, 1, 60), rng.normal(1, 1, 40)
    first = (Scores("a", id_n), Scores("a", ood_m))
    second = (Scores("b", np.round(id_n + rng.normal(0, 1, 60))), Scores("b", np.round(ood_m + rng.normal(0, 1, 40))))
    found, p_value = metrics.delong_difference(first, second)
    covariance = brute_covariance([first, second])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.value == pytest.approx(metrics.auroc(*first) - metrics.auroc(*second), abs=1e-15)
    assert found.se**2 == pytest.approx(variance, abs=1e-15)
    assert 0 < p_value < 1
    assert metrics.delong_difference(first, first)[1] == 1.0
    with pytest.raises(ValueError, match="same samples"):
        metrics.delong_difference(first, (second[0], Scores("b", ood_m[:-1])))


def test_a_difference_without_variance_is_judged_by_signs_and_promises_no_power() -> None:
    best = Scores("a", np.arange(20.0)), Scores("a", np.arange(100.0, 110.0))
    worst = Scores("b", np.arange(100.0, 120.0)), Scores("b", np.arange(10.0))
    found, p_value = metrics.delong_difference(best, worst)
    assert (found.value, found.se, found.high) == (1.0, 0.0, 1.0) and p_value == 2.0**-9  # ten OOD samples, all one way
    assert found.low == pytest.approx(0.025 ** (1 / 10), abs=1e-12)  # Clopper & Pearson's end for ten of ten
    same, p_value = metrics.delong_difference(best, (best[0], best[1]))
    assert (same.value, p_value) == (0.0, 1.0)
    assert (same.low, same.high) == (found.low - 1, 1 - found.low)
    assert metrics.smallest_difference(0.0) is None


def test_interval_covers_the_truth_and_stays_inside() -> None:
    rng, hits, truth = np.random.default_rng(0), 0, 0.98305  # Phi(3 / sqrt 2)
    for _ in range(400):
        found = metrics.delong(Scores("d", rng.normal(0, 1, 150)), Scores("d", rng.normal(3, 1, 100)))
        assert found.high < 1
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 400 <= 0.98


def test_perfect_separation_has_an_open_lower_end() -> None:
    found = metrics.delong(Scores("d", np.arange(20.0)), Scores("d", np.arange(100.0, 110.0)))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 10))


def test_a_score_turned_round_gives_the_complement(pair: tuple[Scores, Scores]) -> None:
    turned = tuple(Scores("d", -scores.values) for scores in pair)
    assert metrics.auroc(*turned) == pytest.approx(1 - metrics.auroc(*pair), abs=1e-15)


def test_monotone_maps_change_nothing(pair: tuple[Scores, Scores]) -> None:
    mapped = tuple(Scores("d", np.exp(scores.values / 3)) for scores in pair)
    assert metrics.ood_metrics(*mapped) == metrics.ood_metrics(*pair)


def test_orientation_is_flagged_and_never_mended() -> None:
    rng = np.random.default_rng(0)
    low, high = Scores("d", rng.normal(0, 1, 100)), Scores("d", rng.normal(1, 1, 100))
    assert metrics.orientation(low, high) == "ok"
    assert metrics.orientation(high, low) == metrics.SUSPECT_ORIENTATION
    assert metrics.ood_metrics(high, low)["auroc"] < 0.5  # type: ignore[operator]
    assert metrics.orientation(low, Scores("d", rng.normal(-0.1, 1, 100))) == "ok"  # not significant


def test_bare_arrays_and_mixed_detectors_are_refused() -> None:
    array, scores = np.zeros(3), Scores("a", np.zeros(3))
    for name in ("auroc", "aupr_in", "aupr_out", "fpr_id_at_95tpr_ood", "delong", "ood_metrics", "roc_curve"):
        with pytest.raises(TypeError, match="Scores"):
            getattr(metrics, name)(array, array)
    with pytest.raises(ValueError, match=r"'a'.*'b'"):
        metrics.auroc(scores, Scores("b", np.zeros(3)))


@pytest.mark.parametrize(
    "name", ["auroc", "aupr_in", "fpr_ood_at_95tpr_id", "detection_error", "delong", "ood_metrics"]
)
def test_one_kind_of_sample_alone_is_a_user_error(name: str) -> None:
    some, none = Scores("a", np.zeros(3)), Scores("a", np.zeros(0))
    with pytest.raises(UserError, match="no scores of 'a' for out-of-distribution samples; a comparison needs both"):
        getattr(metrics, name)(some, none)
    with pytest.raises(UserError, match="no scores of 'a' for in-distribution samples"):
        getattr(metrics, name)(none, some)
    with pytest.raises(UserError, match="at least 2 samples on each side, there are 3 ID and 1 OOD"):
        metrics.ood_metrics(some, Scores("a", np.zeros(1)))


def test_scores_that_are_not_numbers_are_a_user_error() -> None:
    with pytest.raises(UserError, match=r"scores of 'a': 1 of 3 are not finite, the first at position 1 \(nan\)"):
        Scores("a", np.array([0.0, np.nan, 1.0]))


def test_precision_and_recall_equal_scikit_learn(pair: tuple[Scores, Scores]) -> None:
    truth, values = joined(pair)
    precision, recall, _ = oracle.precision_recall_curve(truth, values)
    own_recall, own_precision = metrics.precision_recall_curve(*pair)
    np.testing.assert_allclose(own_recall, recall[:-1][::-1], atol=1e-14)
    np.testing.assert_allclose(own_precision, precision[:-1][::-1], atol=1e-14)


def test_orientation_is_suspect_from_three_standard_errors_on() -> None:
    """At AUROC + 3 SE just under and just over .5, by moving one sample."""
    for shift in np.linspace(0.2, 0.8, 13):
        rng = np.random.default_rng(1)
        pair = Scores("d", rng.normal(shift, 1, 60)), Scores("d", rng.normal(0, 1, 60))
        found = metrics.delong(*pair)
        assert (metrics.orientation(*pair) == metrics.SUSPECT_ORIENTATION) == (found.value + 3 * found.se < 0.5)
        assert metrics.ood_metrics(*pair)["orientation"] == metrics.orientation(*pair)


def test_smallest_difference_is_that_of_a_two_sided_z_test() -> None:
    assert metrics.smallest_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)

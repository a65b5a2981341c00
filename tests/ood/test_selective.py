"""Risk-coverage with ties against all permutations, and the check of direction that needs no OOD sample."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ssl_sat.evaluation.classification import aurc
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.metrics import SUSPECT_ORIENTATION
from ssl_sat.ood.pass_statistics import McAccumulator
from ssl_sat.ood.sanity import OF_LOGITS, misclassification, wrong_predictions
from ssl_sat.ood.score import BadScores, Scores
from ssl_sat.ood.selective import risk_coverage, risk_coverage_with_ood


def by_permutations(values: list[float], wrong: list[bool]) -> np.ndarray:
    """Mean over all orders that sort the scores, of the risk at each coverage."""
    orders = [o for o in itertools.permutations(range(len(values))) if sorted(values) == [values[k] for k in o]]
    return np.mean([np.cumsum([wrong[k] for k in o]) / np.arange(1, len(o) + 1) for o in orders], axis=0)


@pytest.mark.parametrize("values", [[1, 1, 2, 2, 2, 3], [0, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0], [1, 2, 2, 1, 3, 3]])
@pytest.mark.parametrize("wrong", [[1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
def test_ties_are_the_expectation_over_permutations(values: list[float], wrong: list[int]) -> None:
    found = risk_coverage(Scores("d", np.array(values)), np.array(wrong, dtype=bool))
    expected = by_permutations(values, [bool(w) for w in wrong])
    np.testing.assert_allclose(found.risk_N, expected, atol=1e-14)
    best = min(np.mean([sum(o[:k]) / k for k in range(1, 7)]) for o in set(itertools.permutations(wrong)))
    assert found.aurc == pytest.approx(expected.mean())
    assert found.e_aurc == pytest.approx(expected.mean() - best, abs=1e-14)


def test_areas_are_those_of_classification() -> None:
    rng = np.random.default_rng(0)
    values, wrong = rng.integers(0, 30, 400).astype(float), rng.uniform(size=400) < 0.2
    found = risk_coverage(Scores("d", values), wrong)
    assert (found.aurc, found.e_aurc) == pytest.approx(aurc(values, wrong))
    assert found.risk_at(1.0) == pytest.approx(wrong.mean())
    assert found.coverage_N[0] == 1 / 400 and found.coverage_N[-1] == 1


def test_accepting_an_ood_sample_is_an_error() -> None:
    inside, outside = Scores("d", np.array([0.0, 1, 2, 3])), Scores("d", np.array([4.0, 5]))
    found = risk_coverage_with_ood(inside, outside, np.array([False, False, True, False]))
    np.testing.assert_allclose(found.risk_N, [0, 0, 1 / 3, 1 / 4, 2 / 5, 3 / 6])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="need as many booleans"):
        risk_coverage(Scores("d", np.zeros(3)), np.zeros(3))
    with pytest.raises(BadScores, match="no scores"):
        risk_coverage(Scores("d", np.zeros(0)), np.zeros(0, dtype=bool))


def validation(samples: int = 2000) -> SimpleNamespace:
    """A classifier that is unsure where it errs; 25 passes and 5 members with logits of their own."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 5, samples)
    logits_NK = rng.normal(0, 1, (samples, 5)) + np.eye(5)[labels_N] * rng.uniform(0, 6, samples)[:, None]
    results = []
    for passes in (25, 5):
        accumulator = McAccumulator()
        accumulator.add(torch.tensor(logits_NK + rng.normal(0, 0.5, (passes, samples, 5))))
        results.append(accumulator.result(torch.arange(samples), 0))
    return SimpleNamespace(
        features_ND=None, logits_NK=logits_NK, labels_N=labels_N, split="train", mc=results[0], members=results[1],
        last=None, penultimate_NP=None,
    )  # fmt: skip


VAL = validation()
WRONG = wrong_predictions(VAL.logits_NK, VAL.labels_N)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_wrong_predictions_outrank_right_ones(name: str) -> None:
    scores = DETECTORS.build(DETECTORS.parse({"name": name})).fit(VAL)(VAL)
    found = misclassification(scores, WRONG)
    assert found.verdict == "ok" and found.wrong == WRONG.sum() and found.auroc is not None
    assert found.auroc.value == pytest.approx(roc_auc_score(WRONG, scores.values), abs=1e-12)
    assert found.auroc.low > 0.6
    turned = misclassification(Scores(name, -scores.values), WRONG)
    assert turned.verdict == SUSPECT_ORIENTATION


def test_every_detector_that_reads_logits_or_passes_is_on_the_list() -> None:
    reading = {entry.name for entry in DETECTORS if DETECTORS.build(entry.spec()).needs in {"logits", "mc", "members"}}
    assert reading == set(OF_LOGITS)


def test_too_few_mistakes_say_nothing() -> None:
    found = misclassification(Scores("d", np.arange(4.0)), np.array([False, False, False, True]))
    assert (found.auroc, found.wrong, found.right, found.verdict) == (None, 1, 3, "too few")
    with pytest.raises(ValueError, match="one label"):
        wrong_predictions(np.zeros((2, 3)), np.array([0, -1]))

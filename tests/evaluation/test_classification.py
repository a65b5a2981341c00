"""Classification, calibration and probes against scikit-learn, scipy and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as oracle
from sklearn.neighbors import KNeighborsClassifier

from ssl_sat.evaluation import calibration, probes
from ssl_sat.evaluation import classification as own
from ssl_sat.evaluation.predict import Predictions

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 500)
LOGITS = RNG.normal(0, 1, (500, 4)) + 2 * np.eye(4)[LABELS]
CLASSES = ("a", "b", "c", "d")


def predictions(split: str, labels_N: np.ndarray = LABELS, logits_NK: np.ndarray = LOGITS) -> Predictions:
    rows_N = np.arange(len(labels_N))
    return Predictions(
        features_ND=logits_NK.astype(np.float32), logits_NK=logits_NK.astype(np.float32), labels_N=labels_N,
        rows_N=rows_N, ids=tuple(map(str, rows_N)), classes=CLASSES, split=split, dataset="x",
    )  # fmt: skip


def test_metrics_equal_scikit_learn() -> None:
    found = own.classification_metrics(LOGITS, LABELS, CLASSES)
    p_NK = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    guess = LOGITS.argmax(1)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(LABELS, guess))
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(LABELS, guess, average="macro"))
    assert found["nll"] == pytest.approx(oracle.log_loss(LABELS, p_NK))
    assert found["brier"] == pytest.approx(((p_NK - np.eye(4)[LABELS]) ** 2).sum(1).mean())
    assert found["recall/b"] == pytest.approx(oracle.recall_score(LABELS, guess, average=None)[1])
    assert np.array_equal(own.confusion_matrix(LABELS, guess, 4), oracle.confusion_matrix(LABELS, guess))


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (49, 50), (5351, 5400)])
def test_wilson_equals_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert own.wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_calibration_errors_by_hand() -> None:
    confidence = np.array([1.0, 1.0, 0.95, 0.55, 0.55, 0.35])
    correct = np.array([True, True, False, True, False, False])
    by_hand = (abs(2 - 2.95) + abs(1 - 1.1) + abs(0 - 0.35)) / 6
    assert own.ece(confidence, correct, bins=10) == pytest.approx(by_hand)
    assert own.adaptive_ece(confidence, correct, bins=1) == pytest.approx(abs(3 - 4.4) / 6)
    assert own.ece(np.ones(5), np.ones(5, dtype=bool)) == 0.0
    order = np.random.default_rng(0).permutation(6)
    assert own.adaptive_ece(confidence[order], correct[order], bins=3) == pytest.approx(
        own.adaptive_ece(confidence, correct, bins=3)
    )


def test_perfectly_calibrated_samples_have_small_errors() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1, 200_000)
    correct = rng.uniform(size=200_000) < confidence
    assert own.ece(confidence, correct) < 0.005
    assert own.adaptive_ece(confidence, correct) < 0.005


def test_aurc_is_the_mean_over_permutations_of_ties() -> None:
    wrong = np.array([True, False, False, True])
    areas = [np.mean(np.cumsum(wrong[list(order)]) / np.arange(1, 5)) for order in itertools.permutations(range(4))]
    area, excess = own.aurc(np.zeros(4), wrong)
    assert area == pytest.approx(np.mean(areas))
    assert excess == pytest.approx(np.mean(areas) - (0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert own.aurc(np.array([9.0, 1, 1, 8]), wrong)[1] == pytest.approx(0)


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 \.\.\. 3"):
        own.classification_metrics(LOGITS, LABELS - 1, CLASSES)


@pytest.mark.parametrize(
    ("hits", "counts", "expected"),
    [  # Newcombe 1998, table II, method 10
        ((56, 48), (70, 80), (0.0524, 0.3339)),
        ((9, 3), (10, 10), (0.1705, 0.8090)),
        ((6, 2), (7, 7), (0.0582, 0.8062)),
        ((5, 0), (56, 29), (-0.0381, 0.1926)),
    ],
)
def test_newcombe_as_published(hits: tuple[int, int], counts: tuple[int, int], expected: tuple[float, float]) -> None:
    assert own.newcombe_interval(hits, counts) == pytest.approx(expected, abs=5e-5)


def test_temperature_undoes_a_known_one_and_stays_on_val() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (50_000, 4))
    p_NK = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p_NK.cumsum(1) < rng.uniform(size=(50_000, 1))).sum(1)
    assert calibration.temperature_of(logits * 3, labels) == pytest.approx(3, rel=0.02)
    with pytest.raises(ValueError, match="validation predictions only"):
        calibration.fit_temperature(predictions("test"))
    val, test = predictions("val", labels, logits * 3), predictions("test", labels, logits * 3)
    before = own.classification_metrics(test.logits_NK, labels, CLASSES)
    after = calibration.calibrated_metrics(val, test)
    assert after["ece_scaled"] < 0.01 < before["ece"]
    assert after["nll_scaled"] < before["nll"]


def test_temperature_is_a_stationary_point() -> None:
    best = calibration.temperature_of(LOGITS, LABELS)
    at = own.nll(LOGITS / best, LABELS)
    assert at <= min(own.nll(LOGITS / (best * 1.001), LABELS), own.nll(LOGITS / (best / 1.001), LABELS))


def test_knn_equals_scikit_learn() -> None:
    train, test = LOGITS[:400], LOGITS[400:]
    expected = KNeighborsClassifier(15, metric="cosine").fit(train, LABELS[:400])
    votes = expected.predict_proba(test)
    clear = np.sort(votes, 1)[:, -1] > np.sort(votes, 1)[:, -2]
    found = probes.knn_predict(train, LABELS[:400], test, k=15)
    assert np.array_equal(found[clear], expected.predict(test)[clear])
    assert clear.mean() > 0.9


def test_probes_fit_on_train_alone() -> None:
    train, test = predictions("train").take(np.arange(400)), predictions("test").take(np.arange(400, 500))
    found = probes.probe_metrics(train, test)
    assert 0.7 < found["knn_accuracy_low"] < found["knn_accuracy"] < found["knn_accuracy_high"] < 1
    assert found["linear_probe_accuracy"] > 0.75
    with pytest.raises(ValueError, match="training predictions only"):
        probes.probe_metrics(test, test)

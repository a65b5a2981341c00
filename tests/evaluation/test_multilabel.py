"""Multi-label metrics, calibration and probes against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as oracle
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_sat.evaluation import calibration, multilabel, probes
from ssl_sat.evaluation.predict import Predictions

RNG = np.random.default_rng(0)
CLASSES = ("a", "b", "c", "d")
TRUTH = (RNG.uniform(size=(300, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(np.float32)
LOGITS = (RNG.normal(size=(300, 4)) + 1.5 * TRUTH - 0.5).astype(np.float32)
LOGITS[:, 1] = LOGITS[:, 1].round(1)  # many ties


def predictions(split: str, truth: np.ndarray, logits: np.ndarray, features: np.ndarray | None = None) -> Predictions:
    features = logits if features is None else features
    rows = np.arange(len(truth))
    return Predictions(
        features_ND=features.astype(np.float32), logits_NK=logits.astype(np.float32), labels_N=truth, rows_N=rows,
        ids=tuple(map(str, rows)), classes=CLASSES[: truth.shape[1]], split=split, dataset="x",
    )  # fmt: skip


def test_metrics_equal_scikit_learn() -> None:
    found = multilabel.multilabel_metrics(LOGITS, TRUTH, CLASSES)
    ap = [oracle.average_precision_score(TRUTH[:, k], LOGITS[:, k]) for k in range(3)]
    assert [found[f"ap/{name}"] for name in "abc"] == pytest.approx(ap)
    assert found["map_macro"] == pytest.approx(
        oracle.average_precision_score(TRUTH[:, :3], LOGITS[:, :3], average="macro")
    )
    assert found["map_micro"] == pytest.approx(oracle.average_precision_score(TRUTH, LOGITS, average="micro"))
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(TRUTH[:, :3], LOGITS[:, :3] > 0, average="macro"))
    assert found["micro_f1"] == pytest.approx(oracle.f1_score(TRUTH, LOGITS > 0, average="micro"))
    p = expit(LOGITS.astype(np.float64))
    assert found["nll"] == pytest.approx(
        np.mean([oracle.log_loss(TRUTH[:, k], p[:, k], labels=[0, 1]) for k in range(4)])
    )
    assert found["brier"] == pytest.approx(((p - TRUTH) ** 2).mean())
    assert found["classes_present"] == 3 and "ap/d" not in found and "accuracy" not in found
    assert found["map_macro_low"] < found["map_macro"] < found["map_macro_high"]
    with pytest.raises(ValueError, match="positive one"):
        multilabel.multilabel_metrics(LOGITS, np.zeros_like(TRUTH), CLASSES)


def test_weighted_average_precision_equals_scikit_learn_and_repeated_samples() -> None:
    weights = RNG.integers(0, 4, (5, 300)).astype(float)
    found = multilabel.average_precision(LOGITS[:, 1], TRUTH[:, 1] > 0.5, weights)
    expected = [oracle.average_precision_score(TRUTH[:, 1], LOGITS[:, 1], sample_weight=w) for w in weights]
    np.testing.assert_allclose(found, expected)
    often = np.repeat(np.arange(300), weights[0].astype(int))
    again = multilabel.average_precision(LOGITS[often, 1], TRUTH[often, 1] > 0.5)
    assert again[0] == pytest.approx(found[0])
    assert np.isnan(multilabel.average_precision(LOGITS[:, 3], TRUTH[:, 3] > 0.5)[0])
    micro = multilabel.average_precision(LOGITS.ravel(), TRUTH.ravel() > 0.5, weights, each=4)
    pairs = np.repeat(weights, 4, axis=1)
    expected = [oracle.average_precision_score(TRUTH.ravel(), LOGITS.ravel(), sample_weight=w) for w in pairs]
    np.testing.assert_allclose(micro, expected)


def test_a_random_ranking_has_the_base_rate_and_a_perfect_one_has_one() -> None:
    truth = RNG.uniform(size=50_000) < 0.3
    assert multilabel.average_precision(RNG.normal(size=50_000), truth)[0] == pytest.approx(0.3, abs=0.01)
    assert multilabel.average_precision(truth.astype(float), truth)[0] == 1.0
    assert multilabel.average_precision(np.zeros(50_000), truth)[0] == pytest.approx(truth.mean())


def test_the_interval_covers_the_value_of_the_population() -> None:
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.uniform(size=(150, 2)) < 0.4
        logits = rng.normal(size=(150, 2)) + truth
        found = multilabel.intervals(logits, truth)
        hits += found["map_macro_low"] < 0.726 < found["map_macro_high"]  # the value of 2 million samples
    assert hits >= 50  # .95 of 60 is 57; the binomial's lowest thousandth is 51, the bootstrap's cover a little less


def test_few_patches_have_no_interval() -> None:
    found = multilabel.multilabel_metrics(LOGITS[:29], TRUTH[:29], CLASSES)
    assert "map_macro" in found and "map_macro_low" not in found
    assert "map_macro_low" in multilabel.multilabel_metrics(LOGITS[:30], TRUTH[:30], CLASSES)


def test_temperature_undoes_a_known_one_with_several_labels() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (20_000, 4))
    truth = (rng.uniform(size=logits.shape) < expit(logits)).astype(np.float32)
    assert calibration.temperature_of(logits * 3, truth) == pytest.approx(3, rel=0.03)
    val, test = predictions("val", truth, logits * 3), predictions("test", truth, logits * 3)
    before, after = multilabel.calibration_of(logits * 3, truth > 0.5), calibration.calibrated_metrics(val, test)
    assert after["ece_scaled"] < 0.01 < before["ece"]
    assert after["nll_scaled"] < before["nll"] and after["brier_scaled"] < before["brier"]
    assert "aurc_scaled" not in after


def test_probes_with_several_labels() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.uniform(size=(400, 3)) < [0.5, 0.3, 0.0]).astype(np.float32)
    features = np.concatenate([truth * 2, np.zeros((400, 5))], axis=1) + rng.normal(size=(400, 8))
    train, test = slice(300), slice(300, 400)
    scores = probes.linear_scores(features[train], truth[train] > 0.5, features[test])
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(features[train]), truth[train, 0] > 0.5)
    np.testing.assert_allclose(scores[:, 0], model.decision_function(scaler.transform(features[test])))
    assert (scores[:, 2] == 0).all()  # never seen, so nothing to fit
    shares = probes.knn_shares(features[train], truth[train], features[test], k=7)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = np.argsort(-(unit[test] @ unit[train].T), axis=1)[:, :7]
    weights = 1 + np.take_along_axis(unit[test] @ unit[train].T, near, axis=1)
    expected = (weights[:, :, None] * truth[train][near]).sum(1) / weights.sum(1)[:, None]
    np.testing.assert_allclose(shares, expected, atol=1e-12)
    logits = np.zeros((400, 3))
    parts = [predictions(name, truth[at], logits[at], features[at]) for name, at in (("train", train), ("test", test))]
    found = probes.probe_metrics(*parts, k=7)
    assert found["linear_probe_map_macro"] == pytest.approx(
        np.mean([oracle.average_precision_score(truth[test, k], scores[:, k]) for k in range(2)])
    )
    assert set(found) == {"knn_map_macro", "linear_probe_map_macro"}

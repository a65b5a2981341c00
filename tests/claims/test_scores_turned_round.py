"""Published mistake: MSP printed at AUROC .0994, because a confidence was scored as if higher meant OOD.

The study's table of detectors is reproduced row by row: scores with exactly the AUROC that is printed for MSP are a
confidence, they cannot reach a metric here, and turned round inside the detector they give 1 less that number.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ssl_sat.ood import DETECTORS
from ssl_sat.ood.metrics import SUSPECT_ORIENTATION, auroc, ood_metrics
from ssl_sat.ood.sanity import misclassification, wrong_predictions
from ssl_sat.ood.score import Scores

# encoder and start, AUROC of mutual information, AUROC of MSP as printed
TABLE = [
    ("custom CNN, scratch", 0.9255, 0.0994),
    ("custom CNN, SimCLR 50 epochs", 0.8145, 0.0701),
    ("custom CNN, SimCLR 300 epochs", 0.8291, 0.0745),
    ("ResNet-50, scratch", 0.8954, 0.0812),
    ("ResNet-50, SimCLR", 0.8367, 0.0689),
    ("ViT-B/16, scratch", 0.5231, 0.5145),
    ("ViT-B/16, SimCLR", 0.8725, 0.0823),
]


def confidences(printed: float, size: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Maximum probabilities of ID and OOD samples, an OOD one above an ID one in just this share of all pairs."""
    above = round(printed * size * size)
    ranks_m = np.full(size, above // size)
    ranks_m[: above % size] += 1  # how many ID samples each OOD sample is more confident than
    id_n = 0.5 + 0.4 * np.arange(size) / size
    return id_n, 0.5 + 0.4 * (ranks_m - 0.5) / size


def of_confidence(p_N: np.ndarray, split: str) -> SimpleNamespace:
    """Predictions of two classes whose largest probability is p."""
    logits_NK = np.stack([np.log(p_N), np.log(1 - p_N)], axis=1)
    return SimpleNamespace(features_ND=None, logits_NK=logits_NK, labels_N=None, split=split, mc=None)


@pytest.mark.parametrize(("row", "_mi", "printed"), TABLE)
def test_the_printed_column_is_a_confidence_and_cannot_be_scored(row: str, _mi: float, printed: float) -> None:
    id_n, ood_m = confidences(printed)
    as_the_study = np.mean(ood_m[:, None] > id_n)  # of the confidence itself, as if higher meant OOD
    assert as_the_study == pytest.approx(printed, abs=1e-12), row
    with pytest.raises(TypeError, match="a bare array does not say"):
        auroc(id_n, ood_m)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be 'ood', not 'id'"):
        Scores("msp", id_n, higher_is="id")  # type: ignore[arg-type]
    fitted = DETECTORS.build(DETECTORS.parse({"name": "msp"})).fit(of_confidence(id_n, "train"))
    ours = auroc(fitted(of_confidence(id_n, "test")), fitted(of_confidence(ood_m, "ood")))
    assert ours == pytest.approx(1 - printed, abs=1e-12)
    smuggled = ood_metrics(Scores("msp", id_n), Scores("msp", ood_m))  # someone says 'ood' and means 'id'
    assert (smuggled["orientation"] == SUSPECT_ORIENTATION) == (printed < 0.3)


def test_turned_round_the_confidence_wins_in_five_rows_of_seven() -> None:
    """What the study concluded from the column, that MI is the better score, is the other way round."""
    assert sum(mi > printed for _, mi, printed in TABLE) == 7
    assert sum(1 - printed > mi for _, mi, printed in TABLE) == 5


def test_the_mistake_shows_without_any_ood_sample() -> None:
    """On the validation split the confidence ranks wrong predictions below right ones; our MSP does not."""
    rng = np.random.default_rng(2)
    labels_N = rng.integers(0, 10, 3000)
    logits_NK = rng.normal(0, 1, (3000, 10)) + np.eye(10)[labels_N] * rng.uniform(0, 6, 3000)[:, None]
    wrong_N = wrong_predictions(logits_NK, labels_N)
    planted = misclassification(Scores("msp", max_softmax(logits_NK)), wrong_N)
    assert planted.verdict == SUSPECT_ORIENTATION
    val = SimpleNamespace(features_ND=None, logits_NK=logits_NK, labels_N=labels_N, split="train", mc=None)
    fitted = DETECTORS.build(DETECTORS.parse({"name": "msp"})).fit(val)
    assert misclassification(fitted(val), wrong_N).verdict == "ok"


def logits(seed: int, margin: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (1000, 10)) + np.eye(10)[rng.integers(0, 10, 1000)] * margin


def max_softmax(logits_NK: np.ndarray) -> np.ndarray:
    p_NK = np.exp(logits_NK)
    return (p_NK / p_NK.sum(1, keepdims=True)).max(1)


ID, OOD = logits(0, 6.0), logits(1, 3.0)


def test_a_bare_confidence_cannot_be_scored() -> None:
    with pytest.raises(TypeError, match="does not say whether higher means more out-of-distribution"):
        auroc(max_softmax(ID), max_softmax(OOD))  # type: ignore[arg-type]


def test_a_confidence_cannot_be_declared_as_one() -> None:
    with pytest.raises(ValueError, match="turn the values round inside the detector"):
        Scores("msp", max_softmax(ID), higher_is="id")  # type: ignore[arg-type]


def test_the_planted_mistake_is_flagged_and_our_msp_is_its_complement() -> None:
    planted = ood_metrics(Scores("msp", max_softmax(ID)), Scores("msp", max_softmax(OOD)))
    assert planted["auroc"] < 0.2  # type: ignore[operator]
    assert planted["orientation"] == SUSPECT_ORIENTATION

    def predictions(logits_NK: np.ndarray, split: str) -> SimpleNamespace:
        return SimpleNamespace(features_ND=None, logits_NK=logits_NK, labels_N=None, split=split, mc=None)

    fitted = DETECTORS.build(DETECTORS.parse({"name": "msp"})).fit(predictions(ID, "train"))
    ours = ood_metrics(fitted(predictions(ID, "test")), fitted(predictions(OOD, "test")))
    assert ours["orientation"] == "ok"
    assert ours["auroc"] == pytest.approx(1 - planted["auroc"], abs=1e-6)  # type: ignore[operator]
    repaired = 1 - planted["fpr_id_at_95tpr_ood"]  # type: ignore[operator]
    assert ours["fpr_id_at_95tpr_ood"] != pytest.approx(repaired, abs=0.02)  # FPR cannot be repaired that way

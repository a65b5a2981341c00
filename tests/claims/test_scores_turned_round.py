"""Published mistake: MSP printed at AUROC .0994, because a confidence was scored as if higher meant OOD."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ssl_sat.ood import DETECTORS
from ssl_sat.ood.metrics import SUSPECT_ORIENTATION, auroc, ood_metrics
from ssl_sat.ood.score import Scores


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

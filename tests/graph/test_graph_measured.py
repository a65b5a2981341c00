"""What nodes can measure is what the functions that measure return, and no more."""

import numpy as np
import pytest

from ssl_sat.evaluation.calibration import calibrated_metrics
from ssl_sat.evaluation.classification import classification_metrics
from ssl_sat.evaluation.multilabel import multilabel_metrics
from ssl_sat.evaluation.overfitting import gap_metrics
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.evaluation.probes import probe_metrics
from ssl_sat.graph.claims import Asked, Comparison, refuse_unknown
from ssl_sat.graph.measured import unmeasurable
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.ood.metrics import ood_metrics
from ssl_sat.ood.score import Scores
from ssl_sat.spec import ConfigError

CLASSES = ("Forest", "River")


def node(ident, stage, **config):
    return Node(ident, ident, stage, {}, [], {}, f"nowhere/{ident}", "f" * 64, {}, False, "to do", config)


TUNED = node("finetune-cnn", "finetune")
FAR = node("far-cnn", "ood_eval", detectors=[{"name": "msp"}, {"name": "mutual_information"}])


def predictions(split, several):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (80, 2) if several else 80)
    features, logits = (rng.normal(size=(80, d)).astype(np.float32) for d in (3, 2))
    return Predictions(features, logits, labels, np.arange(80), tuple(map(str, range(80))), CLASSES, split, "made")


def measured(several):
    train, val, test = (predictions(split, several) for split in ("train", "val", "test"))
    metrics = multilabel_metrics if several else classification_metrics
    names = {f"{part.split}_{n}" for part in (val, test) for n in metrics(part.logits_NK, part.labels_N, CLASSES)}
    names |= {n if n == "temperature" else f"test_{n}" for n in calibrated_metrics(val, test)}
    names |= {f"{when}_{n}" for when in ("start", "tuned") for n in probe_metrics(train, test)}
    return names | ({*gap_metrics(train, val)} - {"gap_of"}) | {"phase_head_epochs", "train_loss", "epochs"}


@pytest.mark.parametrize("several", [False, True])
def test_what_finetune_measures_is_known(several):
    assert len(measured(several)) > 30
    assert [name for name in measured(several) if unmeasurable(name, [TUNED]) is not None] == []


def test_what_ood_eval_measures_is_known():
    own = ood_metrics(Scores("msp", [0.1, 0.2, 0.3]), Scores("msp", [0.2, 0.9]))
    names = {f"{d}{part}_{n}" for d in ("msp", "shortcut_probe") for part in ("", "@known") for n in own}
    names = {name for name in names if not name.endswith("_orientation")}
    names |= {"mutual_information_gain_over_probe", "msp_gain_over_probe_p_holm", "msp_aurc", "n_ood"}
    assert len(names) > 40
    assert [name for name in names if unmeasurable(name, [FAR]) is not None] == []


def refused(of):
    with pytest.raises(ConfigError) as error:
        refuse_unknown([Asked("c", "It is so.", "", (Comparison(of=of),), "")], Plan("x", "?", "o", ".", [TUNED, FAR]))
    return str(error.value)


def test_a_misspelt_metric_of_a_claim_is_told_before_anything_runs():
    told = "claims.c: finetune-cnn does not measure 'test_acuracy'; did you mean 'test_accuracy'?"
    assert refused("finetune-cnn.test_acuracy") == told
    told = "claims.c: far-* does not measure 'mutal_information_auroc'; did you mean 'mutual_information_auroc'?"
    assert refused("far-*.mutal_information_auroc") == told
    assert "does not measure 'energy_auroc'" in refused("far-cnn.energy_auroc")  # no detector of this evaluation
    assert "does not measure 'msp@known_aurok'" in refused("far-cnn.msp@known_aurok")
    assert "does not measure 'msp_auroc'" in refused("finetune-cnn.msp_auroc")


def test_what_is_not_known_is_not_refused():
    assert unmeasurable("whatever", [node("own", "fake_sum")]) is None
    assert unmeasurable("whatever", []) is None  # weights are absent, all nodes with them
    assert unmeasurable("msp_auroc", [TUNED, FAR]) is None

"""What every registered detector must do; the registry is the list of cases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from ssl_sat.ood import DETECTORS
from ssl_sat.ood.contract import LastLayer, McResult
from ssl_sat.ood.metrics import auroc
from ssl_sat.ood.score import Scores
from ssl_sat.registry import Entry

BLOCKS = np.kron(np.eye(8), np.ones(8))
LAST = LastLayer((BLOCKS[:4] / 4).astype(np.float32), np.full(4, -0.5, np.float32))
CONF = Path(__file__).parents[2] / "conf" / "detector"


def predictions(split: str, shift: float = 0.0, samples: int = 300, seed: int = 0) -> Any:
    """Four classes, each with eight of 64 features that light up; none is negative, as behind a ReLU.

    `shift` dims the class's features and lights up others that no class uses.
    """
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 4, samples)
    features_ND = BLOCKS[labels_N] * (6 - shift) + BLOCKS[4] * 0.4 * shift
    features_ND = np.maximum(features_ND + rng.normal(0, 0.5, features_ND.shape), 0).astype(np.float32)
    logits_NK = LAST(features_ND).astype(np.float32)
    jitter_TNK = logits_NK + rng.normal(0, 1, (30, *logits_NK.shape))
    p_TNK = np.exp(jitter_TNK) / np.exp(jitter_TNK).sum(-1, keepdims=True)
    mean_NK = p_TNK.mean(0)
    predictive_N = -(mean_NK * np.log(mean_NK)).sum(1)
    expected_N = -(p_TNK * np.log(p_TNK)).sum(2).mean(0)
    mc = McResult(
        log_p_NK=np.log(mean_NK),
        predictive_entropy_N=predictive_N,
        expected_entropy_N=expected_N,
        mutual_information_N=predictive_N - expected_N,
        pass_variance_N=p_TNK.var(0).mean(1),
        rows_N=np.arange(samples),
        passes=30,
        seed=0,
    )
    return SimpleNamespace(
        features_ND=features_ND, logits_NK=logits_NK, labels_N=labels_N, split=split, mc=mc, members=mc, last=LAST,
        penultimate_NP=features_ND,
    )  # fmt: skip


@pytest.fixture(params=list(DETECTORS), ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


def test_scores_are_typed_and_higher_for_ood(entry: Entry) -> None:
    fitted = DETECTORS.build(entry.spec()).fit(predictions("train"))
    near, far = fitted(predictions("test", seed=1)), fitted(predictions("test", shift=5, seed=2))
    assert isinstance(near, Scores) and near.detector == entry.name and len(near) == 300
    assert auroc(near, far) > 0.9
    turned = Scores(entry.name, -near.values), Scores(entry.name, -far.values)
    assert auroc(near, far) + auroc(*turned) == pytest.approx(1, abs=1e-15)


def test_scores_belong_to_samples(entry: Entry) -> None:
    """The score of a sample does not depend on the others it is scored with, and inputs stay as they were."""
    fitted = DETECTORS.build(entry.spec()).fit(predictions("train"))
    test = predictions("test", seed=1)
    before = {name: np.array(getattr(test, name)) for name in ("features_ND", "logits_NK", "labels_N")}
    order = np.random.default_rng(0).permutation(300)[:100]
    part_mc = {name: value[order] if isinstance(value, np.ndarray) else value for name, value in vars(test.mc).items()}
    mc = McResult(**part_mc)
    part = SimpleNamespace(
        **{name: value[order] for name, value in before.items()}, split="test", mc=mc, members=mc, last=LAST,
        penultimate_NP=before["features_ND"][order],
    )  # fmt: skip
    np.testing.assert_allclose(fitted(part).values, fitted(test).values[order], rtol=1e-9, atol=1e-12)
    assert all(np.array_equal(before[name], getattr(test, name)) for name in before)


def test_test_labels_are_not_read(entry: Entry) -> None:
    fitted = DETECTORS.build(entry.spec()).fit(predictions("train"))
    test, blind = predictions("test", seed=1), predictions("test", seed=1)
    blind.labels_N = None
    assert np.array_equal(fitted(test).values, fitted(blind).values)


@pytest.mark.parametrize("split", ["val", "test", "ood"])
def test_fitting_on_another_split_is_refused(entry: Entry, split: str) -> None:
    with pytest.raises(ValueError, match="training predictions only"):
        DETECTORS.build(entry.spec()).fit(predictions(split))


def test_yaml_holds_the_defaults(entry: Entry) -> None:
    values = yaml.safe_load((CONF / f"{entry.name}.yaml").read_text())
    assert DETECTORS.parse(values) == entry.spec()
    assert set(values) == set(entry.spec.model_fields)


def test_builders_state_what_they_need(entry: Entry) -> None:
    detector = DETECTORS.build(entry.spec())
    assert detector.name == entry.name
    assert detector.needs in {"features", "logits", "last", "mc", "members"}

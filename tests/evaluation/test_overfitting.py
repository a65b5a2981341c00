"""The gap between training and validation and its rule; the worst mistakes and their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import packs
from scipy.special import expit, softmax

from ssl_sat.evaluation import mistakes
from ssl_sat.evaluation.classification import newcombe_interval
from ssl_sat.evaluation.overfitting import MARGIN, gap_metrics
from ssl_sat.evaluation.predict import Predictions


def predictions(split: str, logits: np.ndarray, labels: np.ndarray) -> Predictions:
    rows = np.arange(len(labels)) + 100
    classes = tuple("abcdefgh"[: logits.shape[1]])
    return Predictions(
        features_ND=logits.astype(np.float32), logits_NK=logits.astype(np.float32), labels_N=labels, rows_N=rows,
        ids=tuple(f"p{row}" for row in rows), classes=classes, split=split, dataset="x",
    )  # fmt: skip


def of_hits(split: str, hits: int, count: int) -> Predictions:
    logits = np.eye(2)[(np.arange(count) >= hits).astype(int)]
    return predictions(split, logits, np.zeros(count, np.int64))


@pytest.mark.parametrize(
    ("train", "val", "flagged"),
    [((990, 1000), (850, 1000), True), ((990, 1000), (935, 1000), False), ((10, 10), (7, 10), False)],
)
def test_flagged_where_the_lower_end_of_the_gap_is_above_the_margin(
    train: tuple[int, int], val: tuple[int, int], flagged: bool
) -> None:
    found = gap_metrics(of_hits("train", *train), of_hits("val", *val))
    low, high = newcombe_interval((train[0], val[0]), (train[1], val[1]))
    assert found["gap"] == pytest.approx(train[0] / train[1] - val[0] / val[1])
    assert (found["gap_low"], found["gap_high"]) == (low, high)
    assert found["overfitting"] is flagged is (low > MARGIN)
    assert found["gap_of"] == "accuracy" and found["train_sample_n"] == train[1]


def test_several_labels_take_average_precision_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=(300, 3)) < 0.4).astype(np.float32)
    sure, noise = truth * 4 - 2 + rng.normal(size=(300, 3)) * 0.1, rng.normal(size=(300, 3))
    found = gap_metrics(predictions("train", sure, truth), predictions("val", noise, truth))
    assert found["gap_of"] == "map_micro" and found["train_sample_map_micro"] == 1.0
    assert 0.5 < found["gap_low"] < found["gap"] < found["gap_high"] and found["overfitting"]
    same = gap_metrics(predictions("train", noise, truth), predictions("val", noise, truth))
    assert same["gap"] == 0 and same["gap_low"] < 0 < same["gap_high"] and not same["overfitting"]


def test_the_gap_is_of_train_and_val_alone() -> None:
    with pytest.raises(ValueError, match="between train and test"):
        gap_metrics(of_hits("train", 1, 2), of_hits("test", 1, 2))


def test_worst_mistakes_are_the_most_confident_wrong_ones() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(200, 4)) * 2, rng.integers(0, 4, 200)
    found = mistakes.worst(predictions("test", logits, labels), count=10)
    p = softmax(logits.astype(np.float32).astype(float), axis=1)
    wrong = [at for at in np.argsort(-p.max(1)) if p[at].argmax() != labels[at]][:10]
    assert [m.row for m in found] == [100 + at for at in wrong]
    assert [m.confidence for m in found] == pytest.approx(p[wrong].max(1))
    assert [(m.true, m.predicted) for m in found] == [("abcd"[labels[at]], "abcd"[p[at].argmax()]) for at in wrong]
    assert mistakes.worst(of_hits("test", 5, 5)) == []


def test_with_several_labels_the_surest_wrong_decision_counts() -> None:
    logits = np.array([[5.0, -5.0], [3.0, -3.0], [-4.0, 1.0], [0.5, 0.2]])
    truth = np.array([[1, 0], [0, 0], [1, 1], [1, 1]], np.float32)
    found = mistakes.worst(predictions("test", logits, truth))
    assert [(m.row, m.true, m.predicted) for m in found] == [(102, "a", "no a"), (101, "no a", "a")]
    assert [m.confidence for m in found] == pytest.approx([expit(4.0), expit(3.0)])


def test_pictures_are_red_green_and_blue_stretched(tmp_path: Path) -> None:
    groups = ((("B02", "B03"), 6, 10.0), (("B04",), 3, 20.0))
    pack = packs.write(tmp_path / "pack", 3, groups=groups)
    ten, twenty = pack.read(np.array([2, 0]))
    found = mistakes.pictures(pack, [2, 0])
    for at, picture in enumerate(found):
        red = np.repeat(np.repeat(twenty[at, 0], 2, axis=0), 2, axis=1)
        values = np.stack([red, ten[at, 1], ten[at, 0]], axis=-1) / 10_000
        low, high = np.quantile(values, [0.01, 0.99])
        np.testing.assert_allclose(picture, np.clip((values - low) / (high - low), 0, 1), atol=1e-5)
    assert len(mistakes.pictures(packs.write(tmp_path / "other", 2), [1])[0].shape) == 3  # no red: grey

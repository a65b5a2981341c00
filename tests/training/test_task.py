"""Tasks of labels: losses against scipy, tallies that add up, packs that cannot be learned from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss

from ssl_sat.spec import UserError
from ssl_sat.training.task import Task

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 4)).astype(np.float32)
NUMBERS = RNG.integers(0, 4, 50)
SEVERAL = (RNG.uniform(size=(50, 4)) < 0.4).astype(np.float32)
ONE, MANY = Task("multiclass", tuple("abcd")), Task("multilabel", tuple("abcd"))


def loss_of(task: Task, labels: np.ndarray, **options: Any) -> float:
    return float(task.loss(torch.tensor(LOGITS), task.targets(torch.tensor(labels)), **options))


def test_losses_equal_scikit_learn() -> None:
    p = np.exp(log_softmax(LOGITS.astype(float), axis=1))
    assert loss_of(ONE, NUMBERS) == pytest.approx(log_loss(NUMBERS, p), rel=1e-5)
    each = [log_loss(SEVERAL[:, k], expit(LOGITS[:, k].astype(float))) for k in range(4)]
    assert loss_of(MANY, SEVERAL) == pytest.approx(np.mean(each), rel=1e-5)


def test_label_smoothing_mixes_in_the_uniform_target() -> None:
    logp = log_softmax(LOGITS.astype(float), axis=1)
    target = 0.9 * np.eye(4)[NUMBERS] + 0.1 / 4
    assert loss_of(ONE, NUMBERS, label_smoothing=0.1) == pytest.approx(-(target * logp).sum(1).mean(), rel=1e-5)
    soft, p = 0.9 * SEVERAL + 0.05, expit(LOGITS.astype(float))
    expected = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean()
    assert loss_of(MANY, SEVERAL, label_smoothing=0.1) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_of_mixed_patches_interpolate_the_loss() -> None:
    x, (a, b) = torch.tensor(LOGITS), (torch.tensor(NUMBERS), torch.tensor(NUMBERS).roll(1))
    mixed = 0.3 * ONE.dense(a) + 0.7 * ONE.dense(b)
    torch.testing.assert_close(ONE.loss(x, mixed), 0.3 * ONE.loss(x, a) + 0.7 * ONE.loss(x, b))


def test_tallies_add_over_batches_and_give_scikit_learns_measures() -> None:
    x = torch.tensor(LOGITS)
    for task, labels, expected in (
        (ONE, NUMBERS, accuracy_score(NUMBERS, LOGITS.argmax(1))),
        (MANY, SEVERAL, f1_score(SEVERAL, LOGITS > 0, average="micro")),
    ):
        targets = task.targets(torch.tensor(labels))
        parts = [task.tally(x[at], targets[at]) for at in (slice(0, 17), slice(17, 50))]
        assert all(len(part) == task.tally_size and part.dtype == torch.float64 for part in parts)
        found = task.measures(parts[0] + parts[1])
        assert float(found[task.measure]) == pytest.approx(expected)
        assert float(found["loss"]) == pytest.approx(loss_of(task, labels), rel=1e-6)


def test_two_classes_are_the_sigmoid_of_their_difference() -> None:
    x = torch.tensor(LOGITS[:, :2])
    torch.testing.assert_close(Task("multiclass", ("no", "yes")).probabilities(x)[:, 1], (x[:, 1] - x[:, 0]).sigmoid())


def pack(labels: np.ndarray, kind: str, splits: dict[str, slice], classes: tuple[str, ...] = tuple("abc")) -> Any:
    rows = np.arange(len(labels))
    return SimpleNamespace(folder=Path("p"), classes=classes, manifest=SimpleNamespace(label_kind=kind), labels=labels,
                           splits=tuple(splits), rows=lambda split: rows[splits[split]])  # fmt: skip


def test_the_kind_follows_from_the_labels() -> None:
    splits = {"train": slice(0, 3), "val": slice(3, 6)}
    assert Task.of(pack(np.array([0, 1, 2, 0, 1, 2]), "single", splits)) == Task("multiclass", tuple("abc"))
    assert Task.of(pack(np.eye(6, 3), "multi", splits)) == Task("multilabel", tuple("abc"))


def test_packs_that_cannot_be_learned_from() -> None:
    splits = {"train": slice(0, 3), "val": slice(3, 6)}
    with pytest.raises(UserError, match="has no labels"):
        Task.of(pack(np.full(6, -1), "none", splits))
    with pytest.raises(UserError, match=r"one class only \(a\)"):
        Task.of(pack(np.zeros(6, int), "single", splits, ("a",)))
    with pytest.raises(UserError, match=r"classes of train and val differ: b, c in val, and not in train"):
        Task.of(pack(np.array([0, 0, 0, 0, 1, 2]), "single", splits))

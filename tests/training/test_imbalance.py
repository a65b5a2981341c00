"""Answers to imbalance: weights in closed form, losses against torch's and torchvision's, draws without state."""

import numpy as np
import pytest
import torch
from fakes.packs import write
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ssl_sat.data.loader import PatchLoader
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.training.finetuning import at_places
from ssl_sat.training.imbalance import IMBALANCES
from ssl_sat.training.imbalance.balance import Balance, Labels
from ssl_sat.training.imbalance.weights import effective, effective_numbers, inverse_frequency
from ssl_sat.training.task import Task

COUNTS = (500, 100, 20)
SINGLE = Task("multiclass", ("a", "b", "c"))
SEVERAL = Task("multilabel", ("a", "b", "c"))


def labels_of(counts=COUNTS) -> Labels:
    """Rows 1000, 1001, ... of a pack, in a random order of classes."""
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = np.arange(1000, 1000 + len(values))
    return Labels(rows, values, [f"p{row}" for row in range(3000)])


def several(n: int = 400) -> Labels:
    values = (np.random.default_rng(1).random((n, 3)) < [0.5, 0.2, 0.02]).astype(np.float32)
    return Labels(np.arange(n), values, [f"p{row}" for row in range(n)])


def answer(name: str, labels: Labels | None = None, task: Task = SINGLE, seed: int = 0, **values) -> Balance:
    spec = IMBALANCES.parse({"name": name, **values})
    return IMBALANCES.build(spec, labels=labels or labels_of(), task=task, seed=seed)


def logits(n: int = 64, classes: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * 3


def test_none_changes_nothing():
    found = answer("none")
    z, y = logits(), torch.arange(64) % 3
    assert found.draw is None and found.epoch_size == len(labels_of().rows_M)
    torch.testing.assert_close(found.loss(z, y, SINGLE).mean(), F.cross_entropy(z, y))
    smoothed = found.loss(z, y, SINGLE, 0.1).mean()
    torch.testing.assert_close(smoothed, F.cross_entropy(z, y, label_smoothing=0.1))


def test_inverse_frequency_is_scikit_learns_balanced():
    labels = labels_of()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.labels)
    np.testing.assert_allclose(inverse_frequency(np.array(COUNTS)), expected, rtol=1e-12)
    half = inverse_frequency(np.array(COUNTS), 0.5)
    assert half[2] / half[0] == pytest.approx(5.0) and half @ COUNTS == pytest.approx(sum(COUNTS))


def test_effective_numbers_in_closed_form():
    counts = np.array(COUNTS)
    direct = [sum(0.99**k for k in range(n)) for n in COUNTS]  # (1 - beta ** n) / (1 - beta)
    np.testing.assert_allclose(effective_numbers(counts, 0.99), direct, rtol=1e-10)
    np.testing.assert_array_equal(effective(counts, 0.0), np.ones(3))
    np.testing.assert_allclose(effective(counts, 1 - 1e-9), inverse_frequency(counts), rtol=1e-5)
    weights = effective(counts, 0.99)
    np.testing.assert_allclose(weights[2] / weights[0], (1 - 0.99**500) / (1 - 0.99**20), rtol=1e-10)
    assert weights @ counts == pytest.approx(counts.sum())


def test_weighted_loss_is_torchs_but_for_the_mean():
    z, y = logits(), torch.arange(64) % 3
    weights = torch.tensor(inverse_frequency(np.array(COUNTS)), dtype=torch.float32)
    ours = answer("weighted").loss(z, y, SINGLE)
    torch.testing.assert_close(ours.sum() / weights[y].sum(), F.cross_entropy(z, y, weight=weights))
    soft = F.one_hot(y, 3) * 0.7 + 0.1
    ours = answer("weighted").loss(z, soft, SINGLE, 0.1).mean()
    torch.testing.assert_close(ours, F.cross_entropy(z, soft, weight=weights, label_smoothing=0.1))


def test_weights_of_several_labels_are_torchs_pos_weight():
    labels = several()
    z, y = logits(), torch.as_tensor(labels.labels[:64])
    yes = torch.as_tensor(labels.labels).sum(0)
    expected = F.binary_cross_entropy_with_logits(z, y, pos_weight=(400 - yes) / yes)
    torch.testing.assert_close(answer("weighted", labels, SEVERAL).loss(z, y, SEVERAL).mean(), expected)
    close = answer("effective_number", labels, SEVERAL, beta=0.9999999).loss(z, y, SEVERAL).mean()
    torch.testing.assert_close(close, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gamma, alpha", [(0.0, None), (2.0, None), (2.0, 0.25), (0.5, 0.9)])
def test_focal_loss_is_torchvisions(gamma, alpha):
    """Two classes are the sigmoid of the difference of their logits."""
    z, y = logits(classes=2), torch.arange(64) % 2
    two = Task("multiclass", ("no", "yes"))
    theirs = {"alpha": -1 if alpha is None else alpha, "gamma": gamma}
    found = answer("focal", labels_of((40, 10)), two, gamma=gamma, alpha=alpha).loss(z, y, two)
    torch.testing.assert_close(found, sigmoid_focal_loss(z[:, 1] - z[:, 0], y.float(), **theirs), rtol=1e-4, atol=1e-6)
    labels = several()
    z, y = logits(), torch.as_tensor(labels.labels[:64])
    found = answer("focal", labels, SEVERAL, gamma=gamma, alpha=alpha).loss(z, y, SEVERAL)
    torch.testing.assert_close(found, sigmoid_focal_loss(z, y, **theirs).mean(1), rtol=1e-4, atol=1e-6)


def test_focal_loss_of_many_classes():
    z, y = logits(), torch.arange(64) % 3
    p = z.softmax(1)[torch.arange(64), y]
    torch.testing.assert_close(answer("focal").loss(z, y, SINGLE), -((1 - p) ** 2) * p.log(), rtol=1e-4, atol=1e-6)
    plain = answer("focal", gamma=0.0).loss(z, y, SINGLE, 0.2).mean()
    torch.testing.assert_close(plain, F.cross_entropy(z, y, label_smoothing=0.2))
    weights = torch.tensor(inverse_frequency(np.array(COUNTS)), dtype=torch.float32)
    weighted = answer("focal", gamma=0.0, alpha="inverse").loss(z, y, SINGLE)
    torch.testing.assert_close(weighted, answer("weighted").loss(z, y, SINGLE))
    assert weights[2] > weights[0]
    with pytest.raises(ConfigError, match=r"here are 3 classes; choose imbalance\.alpha=inverse"):
        answer("focal", alpha=0.25)


@pytest.mark.parametrize("name", ["weighted", "effective_number", "focal"])
def test_gradients_stay_finite_where_the_network_is_sure(name):
    for task, labels in ((SINGLE, None), (SEVERAL, several())):
        z = torch.tensor([[80.0, -80.0, 0.0], [-80.0, 80.0, 0.0]], requires_grad=True)
        y = torch.tensor([0, 0]) if task is SINGLE else torch.tensor([[1.0, 0, 0], [1, 0, 0]])
        values = {"gamma": 0.5} if name == "focal" else {}
        answer(name, labels, task, **values).loss(z, y, task).sum().backward()
        assert torch.isfinite(z.grad).all()


def test_the_sampler_shows_every_class_equally_often_and_needs_no_state():
    labels = labels_of()
    found = answer("sampler", labels)
    class_of = dict(zip(labels.rows_M.tolist(), labels.labels.tolist(), strict=True))
    drawn = np.concatenate([found.draw(epoch) for epoch in range(40)])
    shares = np.bincount([class_of[row] for row in drawn.tolist()]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / len(drawn)))
    assert found.epoch_size == len(labels.rows_M) and found.repeats
    np.testing.assert_array_equal(found.draw(7), answer("sampler", labels).draw(7))
    assert not np.array_equal(found.draw(7), found.draw(8))
    assert not np.array_equal(found.draw(7), answer("sampler", labels, seed=1).draw(7))
    half = np.concatenate([answer("sampler", labels, power=0.5).draw(epoch) for epoch in range(40)])
    shares = np.bincount([class_of[row] for row in half.tolist()]) / len(half)
    np.testing.assert_allclose(shares, np.sqrt(COUNTS) / np.sqrt(COUNTS).sum(), atol=0.01)


def test_patches_with_several_labels_count_by_their_rarest():
    labels = several()
    drawn = np.concatenate([answer("sampler", labels, SEVERAL).draw(epoch) for epoch in range(20)])
    before, after = labels.labels.mean(0), labels.labels[drawn].mean(0)
    assert after[2] > 5 * before[2]


def test_the_loader_gives_the_drawn_rows_to_any_number_of_ranks_in_any_tier(tmp_path):
    pack = write(tmp_path / "pack", 30)
    rows = np.arange(2, 28)
    found = answer("sampler", Labels(rows, pack.labels[rows], pack.ids))
    options = {"shuffle": True, "draw": found.draw, "drop_last": True}
    alone = PatchLoader(pack, rows, 8, **options)
    assert len(alone) == 3
    expected = [found.draw(5)[at * 8 : at * 8 + 8] for at in range(3)]
    for tier in ("map", "device"):
        loaders = [PatchLoader(pack, rows, 8, rank=rank, world_size=2, tier=tier, **options) for rank in range(2)]
        for loader in loaders:
            loader.set_epoch(5)
        for at, parts in enumerate(zip(*loaders, strict=True)):
            assert torch.cat([part.rows_N for part in parts]).tolist() == expected[at].tolist()
            for part in parts:
                for group, read in zip(part.groups, pack.read(part.rows_N.numpy()), strict=True):
                    np.testing.assert_array_equal(group.numpy().view(read.dtype), read)
    again = PatchLoader(pack, rows, 8, **options)
    again.load_state_dict({"epoch": 5, "position": 2})
    assert [batch.rows_N.tolist() for batch in again] == [expected[2].tolist()]


def test_rows_that_repeat_are_told_apart_by_their_place():
    rows = torch.tensor([5, 5, 9, 5])
    whole = at_places(rows, 16)
    assert len(set(whole.tolist())) == 4 and (whole > 2**32).all()
    assert torch.equal(torch.cat([at_places(rows[:2], 16), at_places(rows[2:], 18)]), whole)


def test_negatives_are_capped_and_the_choice_is_seeded():
    labels = labels_of()
    found = answer("capped_negatives", labels, ratio=1.5)
    kept = labels.labels[np.isin(labels.rows_M, found.rows_M)]
    assert np.bincount(kept).tolist() == [180, 100, 20]
    np.testing.assert_array_equal(found.rows_M, answer("capped_negatives", labels, ratio=1.5).rows_M)
    assert not np.array_equal(found.rows_M, answer("capped_negatives", labels, ratio=1.5, seed=1).rows_M)
    assert set(answer("capped_negatives", labels, ratio=1.0).rows_M) < set(found.rows_M)
    assert answer("capped_negatives", labels, ratio=9).epoch_size == 620
    named = answer("capped_negatives", labels, negative="b", ratio=0.1)
    assert np.bincount(labels.labels[np.isin(labels.rows_M, named.rows_M)]).tolist() == [500, 52, 20]
    with pytest.raises(ConfigError, match=r"imbalance\.negative: no class 'aa'; did you mean 'a'"):
        answer("capped_negatives", labels, negative="aa")


def test_negatives_drawn_anew_every_epoch():
    labels = labels_of()
    found = answer("capped_negatives", labels, redraw=True)
    assert found.epoch_size == 240 and not found.repeats
    first, second = found.draw(0), found.draw(1)
    others = set(labels.rows_M[labels.labels != 0])
    for drawn in (first, second):
        assert len(set(drawn)) == 240 and others <= set(drawn)
    assert set(first) != set(second)
    np.testing.assert_array_equal(first, answer("capped_negatives", labels, redraw=True).draw(0))


def test_patches_without_labels_are_the_negatives_of_several():
    labels = several()
    nothing = int((labels.labels.sum(1) == 0).sum())
    found = answer("capped_negatives", labels, SEVERAL, ratio=0.1)
    assert found.epoch_size == (400 - nothing) + round(0.1 * (400 - nothing)) < 400


def test_a_class_that_is_never_trained_is_an_error():
    with pytest.raises(UserError, match="no training patch is of b"):
        answer("weighted", labels_of((5, 0, 5)))

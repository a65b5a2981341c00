"""Order, slices of ranks and contents of batches: the same from every tier, and after a resume."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from fakes import packs

from ssl_sat.data import residency
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack
from ssl_sat.spec import ConfigError

TIERS = ("device", "shard", "pinned", "map")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Pack:
    return packs.write(tmp_path_factory.mktemp("packs") / "fake", 50)


def loader(pack, tier="auto", monkeypatch=None, **changed) -> PatchLoader:
    """A loader of a tier; 'shard' is the device tier with room for two shares of an epoch, but not for the set."""
    options = {"seed": 3, "shuffle": True, "drop_last": True, "epochs": 3, **changed}
    made = PatchLoader(pack, options.pop("rows", np.arange(4, 49)), options.pop("batch_size", 6), tier=(
        "device" if tier == "shard" else tier), **options)  # fmt: skip
    if tier in ("shard", "map"):
        chosen = {"shard": residency.Residency("device", "", sharded=True, staged=True),
                  "map": residency.Residency("map", "", kept_bytes=10 * pack.manifest.record_bytes)}[tier]  # fmt: skip
        made._choose = lambda: chosen
    return made


def contents(batches) -> list:
    return [(*(group.clone() for group in batch.groups), batch.rows_N.clone(), batch.labels_N) for batch in batches]


def assert_same(got, want):
    assert len(got) == len(want)
    for mine, other in zip(got, want, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("world_size", (1, 2, 3))
@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_yields_the_same_bits_in_the_same_order(pack, tier, world_size):
    for rank in range(world_size):
        made = loader(pack, tier, rank=rank, world_size=world_size)
        for epoch in range(3):
            made.set_epoch(epoch)
            global_order = made.order(epoch)
            want = [
                pack.batch(np.array_split(global_order[at : at + 6], world_size)[rank]) for at in range(0, 42, 6)
            ]  # fmt: skip
            assert_same(contents(made), contents(want))
        assert made.residency.tier == {"shard": "device"}.get(tier, tier)


def test_slices_of_the_ranks_are_the_batches_of_one(pack):
    alone = [batch.rows_N for batch in loader(pack, "pinned")]
    ranks = [[batch.rows_N for batch in loader(pack, "map", rank=rank, world_size=3)] for rank in range(3)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(whole, torch.cat(parts))
        assert {len(part) for part in parts} == {2}


def test_every_row_once_an_epoch_and_another_order_the_next(pack):
    made = loader(pack, "pinned", rows=np.arange(48))
    first = torch.cat([batch.rows_N for batch in made])
    made.set_epoch(1)
    second = torch.cat([batch.rows_N for batch in made])
    assert torch.equal(first.sort().values, torch.arange(48)) and torch.equal(second.sort().values, torch.arange(48))
    assert not torch.equal(first, second)
    again = loader(pack, "map", rows=np.arange(48), seed=3)
    assert torch.equal(torch.cat([batch.rows_N for batch in again]), first)
    other = loader(pack, "map", rows=np.arange(48), seed=4)
    assert not torch.equal(torch.cat([batch.rows_N for batch in other]), first)


@pytest.mark.parametrize("kind", ("uint8", "uint16", "float32"))
@pytest.mark.parametrize("tier", TIERS)
def test_numbers_of_every_kind_and_labels_of_several_classes(tmp_path, tier, kind):
    groups = ((("B02",), 5, 10.0),) if kind == "uint8" else packs.GROUPS  # 25 bytes: no wider integer divides them
    fake = packs.write(tmp_path / kind, 12, kind, label_kind="multi", groups=groups)
    (batch,) = loader(fake, tier, rows=np.arange(12), batch_size=12)
    for at, row in enumerate(batch.rows_N.tolist()):
        numbers = torch.cat([group[at].flatten() for group in batch.groups]).numpy()
        want = packs.record(row, len(numbers), kind)
        np.testing.assert_array_equal(numbers.view(kind), want)
        assert batch.labels_N[at].tolist() == [float(row % 3 == k) for k in range(3)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("position", (0, 3, 6, 7))
def test_a_resumed_epoch_continues_with_the_next_batch(pack, tier, position):
    whole = loader(pack, tier)
    whole.set_epoch(1)
    rest = contents(whole)[position:]
    whole.set_epoch(2)
    after = contents(whole)
    stopped = loader(pack, tier, progress=lambda: (1, position))
    resumed = loader(pack, tier)
    resumed.load_state_dict(stopped.state_dict())
    if position < 7:
        resumed.set_epoch(1)  # Lightning announces the epoch after the state was loaded
        assert_same(contents(resumed), rest)
    resumed.set_epoch(2)
    assert_same(contents(resumed), after)


def test_samples_of_three_epochs_with_a_stop_in_the_middle(pack):
    """What a checkpoint counts decides what comes next, whatever was read ahead when the run stopped."""
    whole = []
    made = loader(pack, "pinned")
    for epoch in range(3):
        made.set_epoch(epoch)
        whole += [batch.rows_N.tolist() for batch in made]
    seen, epoch, position = [], 0, 0
    for tier, steps in (("pinned", 4), ("shard", 6), ("map", 5), ("device", 99)):  # another machine each time
        made = loader(pack, tier)
        made.load_state_dict({"epoch": epoch, "position": position})
        while steps and epoch < 3:
            made.set_epoch(epoch)
            taken = [batch.rows_N.tolist() for batch in islice(iter(made), steps)]
            seen, position, steps = seen + taken, position + len(taken), steps - len(taken)
            if position == len(made):
                epoch, position = epoch + 1, 0
    assert seen == whole


def test_evaluation_in_order_with_equal_numbers_of_steps(pack):
    """13 patches in batches of 6: the last holds one, which one of three ranks gets; all do three steps."""
    rows = np.arange(30, 43)
    ranks = [
        list(PatchLoader(pack, rows, 6, rank=rank, world_size=3)) for rank in range(3)
    ]  # fmt: skip
    assert [[len(batch.rows_N) for batch in batches] for batches in ranks] == [[2, 2, 1], [2, 2, 0], [2, 2, 0]]
    in_turn = [batches[step].rows_N for step in range(3) for batches in ranks]
    assert torch.equal(torch.cat(in_turn), torch.arange(30, 43))
    assert ranks[1][2].groups[0].shape == (0, 2, 6, 6)
    assert list(PatchLoader(pack, rows[:0], 6)) == []


def test_training_refuses_unequal_slices(pack):
    with pytest.raises(ConfigError, match="batch_size=8 or less, a multiple of 2"):
        PatchLoader(pack, np.arange(9), 12, shuffle=True, world_size=2)
    with pytest.raises(ConfigError, match="cannot be divided among 4 devices"):
        PatchLoader(pack, np.arange(9), 6, world_size=4)
    with pytest.raises(ConfigError, match="more than the 9 patches"):
        PatchLoader(pack, np.arange(9), 12, shuffle=True, drop_last=True)


def test_a_loader_can_be_sent_to_another_process(pack):
    made = loader(pack, "pinned")
    want = contents(made)
    assert pack.records.shape == (50, 81)  # mapped by now, and not sent along
    sent = pickle.dumps(made)
    assert len(sent) < 5000
    assert_same(contents(pickle.loads(sent)), want)

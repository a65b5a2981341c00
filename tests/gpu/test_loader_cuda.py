"""The tiers where there is CUDA: the same bits as on the CPU, from the device's memory and through pinned buffers."""

import gc

import numpy as np
import pytest
import torch
from fakes import packs

from ssl_sat.data import device_store, residency
from ssl_sat.data.device_store import upload
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack
from ssl_sat.data.ring import HostBuffers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
GROUPS = ((("B02", "B03", "B04", "B08"), 120, 10.0), (("B05", "B06"), 60, 20.0), (("B01",), 20, 60.0))
SHARD = residency.Residency("device", "", sharded=True, staged=True)


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Pack:
    return packs.write(tmp_path_factory.mktemp("cuda") / "fake", 260, groups=GROUPS)


def loader(pack, tier, **changed) -> PatchLoader:
    options = {"seed": 5, "shuffle": True, "drop_last": True, "epochs": 3, "device": "cuda", **changed}
    made = PatchLoader(pack, np.arange(260), 32, tier="device" if tier == "shard" else tier, **options)
    if tier == "shard":
        made._choose = lambda: SHARD
    return made


@pytest.mark.parametrize("world_size", (1, 2))
@pytest.mark.parametrize("tier", ("device", "shard", "pinned", "map"))
def test_batches_on_the_device_have_the_bits_of_the_file(pack, tier, world_size):
    for rank in range(world_size):
        made = loader(pack, tier, rank=rank, world_size=world_size)
        for epoch in range(3):
            made.set_epoch(epoch)
            batches = list(made)
            assert len(batches) == 8
            for batch, rows in zip(batches, made.shares(epoch), strict=True):
                want = pack.batch(rows)
                for got, other in zip(
                    (*batch.groups, batch.rows_N, batch.labels_N), (*want.groups, want.rows_N, want.labels_N),
                    strict=True,
                ):  # fmt: skip
                    assert got.is_cuda and got.dtype == other.dtype and torch.equal(got.cpu(), other)


@pytest.mark.parametrize("kind", ("uint8", "uint16", "float32"))
def test_every_kind_of_number(tmp_path, kind):
    groups = ((("B02",), 5, 10.0),) if kind == "uint8" else packs.GROUPS
    fake = packs.write(tmp_path / kind, 12, kind, label_kind="multi", groups=groups)
    for tier in ("device", "pinned"):
        (batch,) = PatchLoader(fake, np.arange(12), 12, shuffle=True, tier=tier, device="cuda")
        want = fake.batch(batch.rows_N.cpu().numpy())
        assert all(torch.equal(a.cpu(), b) for a, b in zip(batch.groups, want.groups, strict=True))
        assert torch.equal(batch.labels_N.cpu(), want.labels_N)


@pytest.mark.parametrize("depth", (1, 2, 4))
def test_a_slow_consumer_never_sees_a_buffer_filled_again(pack, depth):
    """The device sleeps before it looks at each batch, while the host runs on and the ring goes round."""
    seen = []
    made = loader(pack, "pinned", depth=depth)
    for batch in made:
        torch.cuda._sleep(20_000_000)
        seen.append((batch.rows_N, tuple(group.clone() for group in batch.groups)))
        del batch  # its memory may be given to the next copy, but only after the clones are done
    for rows_N, groups in seen:
        want = pack.batch(rows_N.cpu().numpy())
        assert all(torch.equal(a.cpu(), b) for a, b in zip(groups, want.groups, strict=True))


def test_a_consumer_on_another_stream(pack):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        sums = [(batch.rows_N, batch.groups[0].long().sum((1, 2, 3))) for batch in loader(pack, "pinned", depth=1)]
    stream.synchronize()
    for rows_N, sum_N in sums:
        want = pack.batch(rows_N.cpu().numpy()).groups[0].long().sum((1, 2, 3))
        assert torch.equal(sum_N.cpu(), want)


def test_an_upload_in_many_chunks_through_two_pinned_buffers(pack):
    rows = np.arange(0, 260, 3)
    for chunk in (1, 7 * pack.manifest.record_bytes, 1 << 30):
        *_, store = upload(pack, rows, torch.device("cuda", 0), chunk)
        (batch,) = store.batches([rows[::-1].copy()])
        want = pack.batch(rows[::-1])
        assert all(torch.equal(a.cpu(), b) for a, b in zip(batch.groups, want.groups, strict=True))


def test_the_ring_is_pinned_and_its_buffers_are_as_many_as_it_is_deep(pack):
    assert HostBuffers(4, 64, 2, pin=True).take().is_pinned()


def test_phases_share_one_upload_and_shards_hold_no_more_than_two(pack):
    first, second = loader(pack, "device"), loader(pack, "device", seed=6)
    list(first)
    held = torch.cuda.memory_allocated()
    list(second)
    gc.collect()
    assert torch.cuda.memory_allocated() <= held
    assert device_store.is_there(pack, np.arange(260), torch.device("cuda", 0))
    device_store._whole.clear()
    gc.collect()
    base, share = torch.cuda.memory_allocated(), 128 * pack.manifest.record_bytes
    torch.cuda.reset_peak_memory_stats()
    made = loader(pack, "shard", rank=1, world_size=2)
    for epoch in range(3):
        made.set_epoch(epoch)
        for batch in made:
            del batch
    in_batches = 4 * 16 * pack.manifest.record_bytes
    assert torch.cuda.max_memory_allocated() - base <= 2 * share + in_batches + (4 << 20)


def test_free_memory_decides(pack):
    made = loader(pack, "auto")
    next(iter(made))
    assert made.residency.tier == "device"
    evaluation = PatchLoader(pack, np.arange(260), 32, device="cuda")
    assert next(iter(evaluation)).groups[0].is_cuda
    assert evaluation.residency.tier == "pinned"  # what is read once does not take device memory


def test_lightning_moves_nothing_that_is_there(pack):
    from pytorch_lightning.utilities import move_data_to_device

    batch = next(iter(loader(pack, "pinned")))
    moved = move_data_to_device(batch, torch.device("cuda", 0))
    assert [g.data_ptr() for g in moved.groups] == [g.data_ptr() for g in batch.groups]

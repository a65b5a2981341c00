"""The thread that reads ahead: order, bounds, reuse of buffers, errors, and its end when nobody listens any more."""

import gc
import os
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from fakes import packs

from ssl_sat.data.device_store import upload
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack
from ssl_sat.data.record_file import RecordFile
from ssl_sat.data.residency import Residency
from ssl_sat.data.ring import HostBuffers, Waited, Worker
from ssl_sat.spec import UserError


@pytest.fixture
def pack(tmp_path) -> Pack:
    return packs.write(tmp_path / "fake", 40)


def threads() -> list[str]:
    gc.collect()
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ssl_sat")]


def settled(condition) -> None:
    """Wait (without a bound that a slow machine could break soon) until a thread has got somewhere."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("never came true")


def test_a_worker_runs_ahead_by_its_depth_and_no_further():
    made: list[int] = []
    worker = Worker((made.append(n) or n for n in range(10)), 3, "ssl_sat test")
    settled(lambda: len(made) == 3)
    time.sleep(0.05)
    assert made == [0, 1, 2]
    assert [worker.get() for _ in range(10)] == list(range(10))
    with pytest.raises(StopIteration):
        worker.get()
    worker.stop()
    assert threads() == []


def test_an_error_comes_in_its_turn_and_closes_what_was_open():
    closed = []

    def items():
        try:
            yield 1
            raise OSError("gone")
        finally:
            closed.append(True)

    worker = Worker(items(), 4, "ssl_sat test")
    assert worker.get() == 1
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            worker.get()
    assert closed == [True]


def test_stopping_a_worker_that_is_full_closes_its_generator():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    worker = Worker(items(), 2, "ssl_sat test")
    worker.get()
    worker.stop()
    assert not worker.is_alive() and closed == [True]


def test_buffers_come_back_when_the_last_view_is_gone():
    buffers = HostBuffers(4, 8, 2, pin=False)
    first = buffers.take()
    array = buffers.lend(first)
    tensor = torch.from_numpy(array[1:3]).view(torch.int16)[:, :2]
    where = first.data_ptr()
    del array, first
    gc.collect()
    assert buffers.take().data_ptr() != where and buffers.made == 2
    del tensor
    gc.collect()
    assert buffers.take().data_ptr() == where and buffers.made == 2


class Copied:
    """An event of a copy, as CUDA's."""

    def __init__(self) -> None:
        self.done, self.waited = False, 0

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.waited += 1


def test_a_buffer_is_filled_again_only_after_its_copy_has_left():
    buffers, events = HostBuffers(1, 8, 2, pin=False), [Copied(), Copied()]
    pointers = []
    for event in events:
        buffer = buffers.take()  # the second is a new one, since the first is still being copied
        pointers.append(buffer.data_ptr())
        buffers.give_back(buffer, event)
    assert len(set(pointers)) == 2 and [e.waited for e in events] == [0, 0]
    assert buffers.take().data_ptr() == pointers[0] and [e.waited for e in events] == [1, 0]


def test_batches_that_the_consumer_keeps_are_never_written_over(pack):
    loader = PatchLoader(pack, np.arange(40), 4, shuffle=True, tier="pinned", depth=1)
    kept = list(loader)
    for batch in kept:
        want = pack.batch(batch.rows_N.numpy())
        assert all(torch.equal(a, b) for a, b in zip(batch.groups, want.groups, strict=True))


def test_a_consumer_that_lets_go_recycles_few_buffers(pack, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "empty", lambda *a, _empty=torch.empty, **k: made.append(a) or _empty(*a, **k))
    for _ in range(3):
        for batch in PatchLoader(pack, np.arange(40), 2, tier="pinned", depth=2):
            del batch
    assert len(made) <= 3 * (2 + 3)  # an iteration: those ready, one being filled, one in each hand


def fail_at_first(batches) -> None:
    for batch in batches:
        raise ZeroDivisionError(len(batch.rows_N))


@pytest.mark.parametrize("leave", ("break", "error", "forget"))
@pytest.mark.parametrize("tier", ("pinned", "map", "device"))
def test_an_iteration_left_early_ends_its_threads(pack, tier, leave):
    loader = PatchLoader(pack, np.arange(40), 2, shuffle=True, tier=tier)
    if tier == "device":
        loader._choose = lambda: Residency("device", "", sharded=True, staged=True)
    batches = iter(loader)
    if leave == "error":
        with pytest.raises(ZeroDivisionError):
            fail_at_first(batches)
    else:
        next(batches)
    if leave == "break":
        batches.close()
    del batches
    assert threads() == []
    assert len(list(loader)) == 20  # and the loader can start again


def test_an_iterator_that_is_never_asked_starts_nothing(pack):
    iter(PatchLoader(pack, np.arange(40), 2))
    assert threads() == []


@pytest.mark.parametrize("tier", ("pinned", "map", "device"))
def test_a_file_that_shrinks_or_vanishes_is_an_error_that_names_it(pack, tier):
    file = pack.folder / "patches.bin"
    loader = PatchLoader(pack, np.arange(40), 2, tier=tier, depth=1, shuffle=True)
    if tier != "device":
        batches = iter(loader)
        next(batches)
        os.truncate(file, 10 * pack.manifest.record_bytes)
        with pytest.raises(UserError, match=r"patches\.bin cannot be read: it ends before record [1-3][0-9] does"):
            list(batches)
        assert threads() == []
    else:
        os.truncate(file, 10 * pack.manifest.record_bytes)
    with pytest.raises(UserError, match=r"patches\.bin cannot be read: 1620 bytes, where 6480 are needed"):
        list(loader)
    file.unlink()
    with pytest.raises(UserError, match=r"patches\.bin cannot be read: No such file"):
        list(loader)


def test_an_error_while_the_next_share_arrives_is_raised_when_its_turn_comes(pack):
    loader = PatchLoader(pack, np.arange(40), 4, shuffle=True, tier="device", epochs=2)
    loader._choose = lambda: Residency("device", "", sharded=True, staged=True)
    batches = iter(loader)
    next(batches)
    settled(lambda: not threads())  # the next share is there
    assert len(list(batches)) == 9
    loader.set_epoch(1)
    (pack.folder / "patches.bin").unlink()
    assert len(list(loader)) == 10  # nothing is read any more; and no share follows the last epoch
    assert threads() == []
    with pytest.raises(UserError, match="No such file"):
        list(loader)


def test_reads_of_neighbours_scattered_rows_and_pieces(pack):
    size, rng = pack.manifest.record_bytes, np.random.default_rng(0)
    whole = np.fromfile(pack.folder / "patches.bin", np.uint8).reshape(40, size)
    with RecordFile(pack) as file:
        for rows in (np.arange(40), np.arange(40)[::-1], rng.permutation(40), np.array([7, 7, 8, 3]), np.arange(0)):
            for at_once in (1, 3, 512):
                file._in_one_call = at_once
                out = np.zeros((len(rows), size), np.uint8)
                file.read(rows.copy(), out)
                np.testing.assert_array_equal(out, whole[rows])
            file.will_need(rows)
            file.forget(rows)
        with pytest.raises(IndexError, match=r"40\.\.40 outside 0\.\.39"):
            file.read(np.array([40]), np.zeros((1, size), np.uint8))


def test_a_read_that_returns_early_is_continued(pack, monkeypatch):
    """The kernel may return fewer bytes than were asked for."""
    whole = np.fromfile(pack.folder / "patches.bin", np.uint8).reshape(40, -1)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, pieces, at: preadv(fd, [pieces[0][:7]], at))
    rows, out = np.array([3, 9, 4, 5]), np.zeros((4, whole.shape[1]), np.uint8)
    with RecordFile(pack) as file:
        file.read(rows, out)
    np.testing.assert_array_equal(out, whole[rows])


def test_an_upload_in_chunks_equals_one_read(pack):
    rows = np.array([1, 2, 3, 8, 20, 39])
    for chunk in (1, 400, 1 << 20):
        *steps, store = upload(pack, rows, torch.device("cpu"), chunk)
        (batch,) = store.batches([rows[::-1].copy()])
        assert all(torch.equal(a, b) for a, b in zip(batch.groups, pack.batch(rows[::-1]).groups, strict=True))
        assert steps == [None] * len(steps) and len(steps) == {1: 6, 400: 3, 1 << 20: 1}[chunk]


def test_waiting_is_counted():
    waited = Waited()
    for _ in range(3):
        with waited:
            pass
    assert waited.seconds > 0


def test_the_consumer_waits_for_the_first_batch(pack):
    loader = PatchLoader(pack, np.arange(40), 4)
    assert loader.waited_s == 0
    list(loader)
    assert loader.waited_s > 0


def growth(pack, tier) -> int:
    """Resident bytes that an epoch adds after its first batch."""
    batches = iter(PatchLoader(pack, np.arange(len(pack)), 8, shuffle=True, tier=tier))
    next(batches)
    process = psutil.Process()
    before = most = process.memory_info().rss
    for index, batch in enumerate(batches):
        del batch
        if index % 10 == 0:
            most = max(most, process.memory_info().rss)
    return most - before


@pytest.mark.parametrize("tier", ("pinned", "map"))
def test_resident_memory_does_not_grow_with_the_data(tmp_path, tier):
    """600 MB against 60 MB, a whole epoch of each. Through a memory map the file's size would be added."""
    groups = ((("B02", "B03", "B04", "B08"), 192, 10.0),)  # 294,912 bytes
    ring = 10 * 8 * 294_912  # buffers that are made after the first batch: 24 MB at most
    for megabytes in (60, 600):
        pack = packs.write(tmp_path / str(megabytes), megabytes * 10**6 // 294_912, groups=groups, zeros=True)
        assert growth(pack, tier) <= ring


def test_a_forked_child_reads_by_itself_and_a_run_ends_with_a_thread_alive(pack):
    """Threads stay with the parent; an interpreter that ends amid an iteration stops them and exits with 0."""
    code = (
        "import os, sys, numpy as np\n"
        "from ssl_sat.data.loader import PatchLoader\n"
        "from ssl_sat.data.packed import Pack\n"
        "loader = PatchLoader(Pack.open(sys.argv[1]), np.arange(40), 4)\n"
        "batches = iter(loader); next(batches)\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(sum(len(b.rows_N) for b in loader))\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 40\n"
        "print(len(next(batches).rows_N))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(pack.folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\n"

"""Records on the device, uploaded once through pinned buffers; a batch is one index_select.

Integers keep their 16 bits. A rank that cannot hold the whole set holds its share of one epoch: exactly the rows that
the global order of that epoch assigns to it, so that batches are those of every other tier.
"""

# M records on the device, N patches of a batch, R bytes of a record

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_sat.data.packed import Batch, Pack, split_groups
from ssl_sat.data.record_file import RecordFile
from ssl_sat.data.ring import HostBuffers, Waited, Worker, current_device

Shares = Sequence[NDArray[np.int64]]
_CHUNK_BYTES = 64 << 20
_UNBOUNDED = 1 << 62
_whole: weakref.WeakKeyDictionary[Pack, dict[tuple[str, str], DeviceStore]] = weakref.WeakKeyDictionary()


class DeviceStore:
    """Records, row numbers and labels of some rows of a pack (ascending), on a device."""

    def __init__(self, pack: Pack, rows_M: NDArray[np.int64], records: Tensor) -> None:
        self.rows_M = rows_M
        # no reference to the pack: the stores of a pack live as long as it does
        self._records, self._dtype, self._groups = records, pack.torch_dtype, pack.groups
        self._rows = torch.from_numpy(rows_M).to(records.device)
        self._labels = torch.from_numpy(pack.labels[rows_M]).to(records.device)

    def batches(self, shares: Shares) -> Iterator[Batch]:
        """Yield a batch for every array of rows; the whole order goes to the device at once."""
        if not shares:
            return
        places = np.searchsorted(self.rows_M, np.concatenate(shares))
        on_device = torch.from_numpy(places).to(self._rows.device)
        for part_N in on_device.split([len(rows) for rows in shares]):
            records = self._records.index_select(0, part_N).view(self._dtype)
            rows_N, labels_N = self._rows.index_select(0, part_N), self._labels.index_select(0, part_N)
            yield Batch(split_groups(records, self._groups), rows_N, labels_N)


class DeviceFeed:
    """Batches from records on the device.

    rows_M: all rows of the run. sharded: hold one epoch's share at a time. following: the shares of the epoch after a
    given one, or None after the last; they are uploaded while the present ones are in use (None: never).
    """

    def __init__(
        self, pack: Pack, device: torch.device, rows_M: NDArray[np.int64], sharded: bool,
        following: Callable[[int], Shares | None] | None = None,
    ) -> None:  # fmt: skip
        self.pack, self.device, self.rows_M = pack, device, np.unique(rows_M)
        self.sharded, self._following = sharded, following
        self._next: _Staged | None = None

    def batches(self, shares: Shares, epoch: int, waited: Waited) -> Iterator[Batch]:
        """Yield the batches of (what is left of) an epoch."""
        if not self.sharded:
            with waited:
                store = whole(self.pack, self.rows_M, self.device)
            yield from store.batches(shares)
            return
        if not shares:
            return
        with waited:
            store = self._share_of(np.unique(np.concatenate(shares)))
        finished = False
        try:
            self._stage(epoch)
            yield from store.batches(shares)
            finished = True
        finally:
            if not finished:
                self._drop_next()

    def _share_of(self, rows: NDArray[np.int64]) -> DeviceStore:
        staged, self._next = self._next, None
        if staged is None:
            return _finish(upload(self.pack, rows, self.device))
        store = staged.result() if np.array_equal(staged.rows, rows) else None
        staged.worker.stop()
        del staged
        return store or _finish(upload(self.pack, rows, self.device))

    def _stage(self, epoch: int) -> None:
        shares = self._following(epoch) if self._following else None
        if shares:
            self._next = _Staged(self.pack, np.unique(np.concatenate(shares)), self.device)

    def _drop_next(self) -> None:
        if self._next:
            self._next.worker.stop()
            self._next = None

    def __del__(self) -> None:
        self._drop_next()


class _Staged:
    """A share on its way to the device, in a thread."""

    def __init__(self, pack: Pack, rows: NDArray[np.int64], device: torch.device) -> None:
        self.rows = rows
        self.worker: Worker[DeviceStore | None] = Worker(upload(pack, rows, device), _UNBOUNDED, "ssl_sat share")

    def result(self) -> DeviceStore:
        """Wait for it; raises what went wrong in the thread."""
        while (store := self.worker.get()) is None:
            pass
        return store


def whole(pack: Pack, rows_M: NDArray[np.int64], device: torch.device) -> DeviceStore:
    """The store of these rows, uploaded once as long as the pack is in use: phases of a fine-tuning share it."""
    key = _key(rows_M, device)
    stores = _whole.setdefault(pack, {})
    if key not in stores:
        stores[key] = _finish(upload(pack, rows_M, device))
    return stores[key]


def is_there(pack: Pack, rows_M: NDArray[np.int64], device: torch.device) -> bool:
    """Whether these rows are on the device already."""
    return _key(np.unique(rows_M), device) in _whole.get(pack, {})


def _key(rows_M: NDArray[np.int64], device: torch.device) -> tuple[str, str]:
    return str(device), hashlib.blake2b(rows_M.tobytes(), digest_size=16).hexdigest()


def _finish(steps: Iterator[DeviceStore | None]) -> DeviceStore:
    *_, store = steps
    assert store is not None
    return store


def upload(
    pack: Pack, rows_M: NDArray[np.int64], device: torch.device, chunk_bytes: int = _CHUNK_BYTES
) -> Iterator[DeviceStore | None]:
    """Read the rows (ascending) chunk by chunk onto the device; yield None after each chunk, then the store.

    On CUDA a chunk is read into one of two pinned buffers while the other is copied. Memory comes from the stream that
    is current here and is handed out only when all copies are done, so that no other stream can meet it half-filled.
    """
    size = pack.manifest.record_bytes
    chunk = max(1, chunk_bytes // size)
    with ExitStack() as stack:
        stack.enter_context(current_device(device))
        file = stack.enter_context(RecordFile(pack))
        records = torch.empty((len(rows_M), size), dtype=torch.uint8, device=device)
        copy = _PinnedCopy(chunk, size, device, stack) if device.type == "cuda" else _read_directly
        for first in range(0, len(rows_M), chunk):
            file.will_need(rows_M[first + chunk : first + 2 * chunk])
            copy(file, rows_M[first : first + chunk], records[first : first + chunk])
            yield None
    yield DeviceStore(pack, rows_M, records.view(_widest(size)))


def _read_directly(file: RecordFile, rows_N: NDArray[np.int64], into: Tensor) -> None:
    file.read(rows_N, into.numpy())


class _PinnedCopy:
    """Read into pinned memory and copy on a stream of its own; leaving the stack waits for the last copy."""

    def __init__(self, rows: int, record_bytes: int, device: torch.device, stack: ExitStack) -> None:
        self._buffers = HostBuffers(rows, record_bytes, 2, pin=True)
        self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))  # who had this memory before must be done with it
        stack.callback(self._stream.synchronize)

    def __call__(self, file: RecordFile, rows_N: NDArray[np.int64], into: Tensor) -> None:
        buffer = self._buffers.take()
        file.read(rows_N, buffer.numpy()[: len(rows_N)])
        with torch.cuda.stream(self._stream):
            into.copy_(buffer[: len(rows_N)], non_blocking=True)
            copied: Any = torch.cuda.Event(blocking=True)
            copied.record(self._stream)
        self._buffers.give_back(buffer, copied)


def _widest(record_bytes: int) -> torch.dtype:
    """The widest integer that divides a record: fewer, wider loads when it is gathered."""
    return next(d for d in (torch.int64, torch.int32, torch.int16, torch.uint8) if record_bytes % d.itemsize == 0)

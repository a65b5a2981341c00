"""A ring of host buffers that one thread fills ahead of the consumer, and the copies to the device that follow.

On CUDA the buffers are pinned, copies run on a stream of their own, and an event guards each buffer until its copy has
left. On the CPU a batch is the buffer itself: it comes back to the ring when the last tensor that looks at it is gone,
so that a consumer may keep batches as long as it likes, at the price of further buffers.
"""

# N patches of a batch, R bytes of a record

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_sat.data.packed import Batch, Pack
from ssl_sat.data.record_file import RecordFile

T = TypeVar("T")
_READ_AHEAD_BYTES = 256 << 20  # that the kernel is asked to fetch beyond the ring
_running: weakref.WeakSet[Worker[Any]] = weakref.WeakSet()


class Worker(threading.Thread, Generic[T]):
    """Runs a generator in a thread, at most `depth` items ahead of `get`.

    An error in the generator is raised by `get`. `stop` ends the thread before its next item, drops what is ready and
    waits for it. A thread that is still running at the interpreter's end is stopped first: it may hold the device.
    """

    def __init__(self, items: Iterator[T], depth: int, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._items, self._depth = items, depth
        self._ready: deque[T] = deque()
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._changed = threading.Condition()
        _running.add(self)
        self.start()

    def run(self) -> None:
        """Produce items while there is room."""
        try:
            while self._has_room():
                item = next(self._items)
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                del item  # the queue alone holds it
        except StopIteration:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._close()

    def _has_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._ready) < self._depth)
            return not self._stopped

    def _close(self) -> None:
        close: Any = getattr(self._items, "close", None)
        try:
            if close:
                close()
        except BaseException as error:
            self._error = self._error or error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def get(self) -> T:
        """Return the next item; StopIteration after the last, or the error of the thread in its place."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
        if self._error is not None:
            raise self._error
        raise StopIteration

    def stop(self) -> None:
        """End the thread and let go of what it made."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self is not threading.current_thread():
            self.join()
        self._ready.clear()


def _stop_all() -> None:
    for worker in list(_running):
        worker.stop()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):  # threads stay with the parent
    os.register_at_fork(after_in_child=_running.clear)


class Waited:
    """Seconds spent waiting; a context around each wait."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._since


class HostBuffers:
    """Buffers of (rows, R) bytes that are filled again and again: at most `most` whose copies may still be under way.

    pin: page-locked, for copies that run beside everything else.
    """

    def __init__(self, rows: int, record_bytes: int, most: int, pin: bool) -> None:
        self.rows, self._shape, self._most, self._pin = rows, (rows, record_bytes), most, pin
        self._free: deque[tuple[Tensor, Any]] = deque()
        self.made = 0

    def take(self) -> Tensor:
        """A buffer that nobody reads any more."""
        if self._free and (self.made >= self._most or _done(self._free[0][1])):
            buffer, copied = self._free.popleft()
            if copied is not None:
                copied.synchronize()
            return buffer
        self.made += 1
        return torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pin)

    def give_back(self, buffer: Tensor, copied: Any = None) -> None:
        """Return a buffer; `copied` is the event after which it may be filled again."""
        self._free.append((buffer, copied))

    def lend(self, buffer: Tensor) -> NDArray[np.uint8]:
        """The buffer's memory as an array; when the array and all views of it are gone the buffer has come back."""
        array = np.frombuffer(memoryview(buffer.numpy().reshape(-1)), np.uint8).reshape(self._shape)
        owner: Any = array.base  # the array over the memoryview, which every further view keeps alive
        weakref.finalize(owner, self._free.append, (buffer, None)).atexit = False
        return array


def _done(copied: Any) -> bool:
    return copied is None or bool(copied.query())


def current_device(device: torch.device) -> Any:
    """Context in which a thread works on this device: a new thread starts on the first, and would open it too."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Ring:
    """Feeds batches through host memory: `depth` of them ready, read from the file by one thread.

    hint: tell the kernel ahead what will be read (a first or a cold reading). forget_from: rows from this one on are
    dropped from the page cache once they are read, so that the rows below stay in it; None keeps all.
    """

    def __init__(
        self, pack: Pack, device: torch.device, depth: int, *, hint: bool = True, forget_from: int | None = None
    ) -> None:
        self.pack, self.device, self.depth = pack, device, depth
        self.hint, self.forget_from = hint, forget_from
        self._dtype = pack.torch_dtype
        self._buffers: HostBuffers | None = None  # kept over epochs: fresh memory costs more than the reading

    def batches(self, shares: Sequence[NDArray[np.int64]], waited: Waited) -> Iterator[Batch]:
        """Yield a batch on the device for every array of rows."""
        worker = Worker(self._produce(shares), self.depth, "ssl_sat batches")
        try:
            for _ in shares:
                with waited:
                    made = worker.get()
                yield self._received(*made)
                del made
        finally:
            worker.stop()

    def _produce(self, shares: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Batch, Any]]:
        """In the thread: read batch after batch, telling the kernel what follows."""
        labels = self.pack.labels
        most = max((len(rows) for rows in shares), default=0) or 1
        cuda = self.device.type == "cuda"
        buffers = self._buffers_of(most)
        beyond = max(1, min(self.depth, _READ_AHEAD_BYTES // (most * self.pack.manifest.record_bytes)))
        with current_device(self.device), RecordFile(self.pack) as file:
            send = _Sender(self.device, buffers) if cuda else None
            for rows in shares[:beyond] if self.hint else ():
                file.will_need(rows)
            for index, rows in enumerate(shares):
                if self.hint and index + beyond < len(shares):
                    file.will_need(shares[index + beyond])
                buffer = buffers.take()
                file.read(rows, buffer.numpy()[: len(rows)])
                if self.forget_from is not None:
                    file.forget(rows[rows >= self.forget_from])
                small = torch.from_numpy(rows.copy()), torch.from_numpy(labels[rows])
                if send is not None:
                    yield send(buffer, self._dtype, self.pack, *small)
                else:
                    records = torch.from_numpy(buffers.lend(buffer)[: len(rows)]).view(self._dtype)
                    del buffer
                    yield Batch(self.pack.split_groups(records), *small), None
                    del records, small

    def _buffers_of(self, rows: int) -> HostBuffers:
        """Buffers for batches of up to `rows`: those of the epoch before where they are large enough."""
        if self._buffers is None or self._buffers.rows < rows:
            pin = self.device.type == "cuda"
            self._buffers = HostBuffers(rows, self.pack.manifest.record_bytes, self.depth, pin)
        return self._buffers

    def _received(self, batch: Batch, copied: Any) -> Batch:
        """In the consumer: its stream waits for the copy, and the memory is told that it is used there."""
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in (batch.groups[0], batch.rows_N, batch.labels_N):  # groups share one memory
                tensor.record_stream(stream)
        return batch


class _Sender:
    """Copies filled buffers to a CUDA device on a stream of its own; used by the ring's thread alone."""

    def __init__(self, device: torch.device, buffers: HostBuffers) -> None:
        self._device, self._buffers, self._stream = device, buffers, torch.cuda.Stream(device)

    def __call__(self, buffer: Tensor, dtype: torch.dtype, pack: Pack, rows_N: Tensor, labels_N: Tensor) -> Any:
        with torch.cuda.stream(self._stream):
            records = buffer[: len(rows_N)].to(self._device, non_blocking=True)
            copied = torch.cuda.Event(blocking=True)  # the ring's thread sleeps, it does not spin
            copied.record(self._stream)
            self._buffers.give_back(buffer, copied)
            small = [t.pin_memory().to(self._device, non_blocking=True) for t in (rows_N, labels_N)]
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return Batch(pack.split_groups(records.view(dtype)), *small), arrived

"""Processes that make parts of a pack.

They are started anew (spawn), so that nothing of the parent's threads, locks or open files is inherited. One pipe each:
tasks go in, counts of patches and finished parts come out. A worker whose parent dies, even by SIGKILL, sees its end of
the pipe close and ends at once; a parent whose worker dies sees the same and says so. Interrupts (Ctrl-C reaches the
whole group) are the parent's business alone.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, NoReturn

from ssl_sat.data.pack_parts import Job, Tick, write_part
from ssl_sat.data.sources.contract import PatchRef
from ssl_sat.spec import UserError

_AHEAD = 2  # tasks that a worker has at hand, so that it does not wait while the parent is busy appending
_TELL_S = 0.2  # between two words about progress


def usable_cores() -> int:
    """Cores that this process may use: an affinity mask (Slurm, taskset) counts, a container's quota does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_flight(workers: int) -> int:
    """How many parts may be under way or finished but not appended: what bounds the extra disk."""
    return _AHEAD * workers + 1


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    tasks: int = field(default=0)


class Workers:
    """`with Workers(...) as pool: pool.wait_for(0); pool.wait_for(1); ...`: parts come in order, made in any order."""

    def __init__(self, job: Job, folder: Path, count: int, wanted: Sequence[int],
                 refs_of: Callable[[int], Sequence[PatchRef]], tick: Tick) -> None:  # fmt: skip
        self._job, self._folder, self._count = job, folder, count
        self._refs_of, self._tick = refs_of, tick
        self._wanted = list(reversed(wanted))
        self._finished: set[int] = set()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # or starting it would let interrupts through again
        before = _block_interrupts()
        try:
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, self._job, str(self._folder)), daemon=True)
                process.start()
                theirs.close()  # so that its end of the pipe closes when it dies
                self._workers.append(_Worker(process, ours))
        except BaseException:
            self.__exit__()
            raise
        finally:
            _restore(before)
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.process.kill()  # what it is in the middle of is not needed, and no part is half finished
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def wait_for(self, number: int) -> None:
        """Return when part `number` is finished; parts close behind it are made meanwhile."""
        self._hand_out(number)
        while number not in self._finished:
            self._listen()
            self._hand_out(number)
        self._finished.remove(number)
        self._hand_out(number + 1)

    def _hand_out(self, oldest: int) -> None:
        limit = oldest + in_flight(self._count)
        while self._wanted and self._wanted[-1] < limit:
            worker = min(self._workers, key=lambda worker: worker.tasks)
            if worker.tasks >= _AHEAD:
                return
            number = self._wanted.pop()
            try:
                worker.pipe.send((number, self._refs_of(number)))
            except (BrokenPipeError, ConnectionResetError):
                _gone(worker)
            worker.tasks += 1

    def _listen(self) -> None:
        for pipe in connection.wait([worker.pipe for worker in self._workers]):
            worker = next(worker for worker in self._workers if worker.pipe is pipe)
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                _gone(worker)
            if kind == "read":
                self._tick(value)
            elif kind == "finished":
                worker.tasks -= 1
                self._finished.add(value)
            else:
                raise value


def _gone(worker: _Worker) -> NoReturn:
    worker.process.join()
    status = worker.process.exitcode or 0
    how = f"by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"with status {status}"
    memory = " SIGKILL usually means that memory ran out: give it more, or set workers lower." if status == -9 else ""
    raise UserError(f"a worker process of the packing ended {how}.{memory} "
                    "Finished parts are kept: the same command goes on from them.")  # fmt: skip


def _block_interrupts() -> Any:
    """Keep SIGINT from processes that are started now: they inherit the mask of the thread."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None


def _restore(mask: Any) -> None:
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _work(pipe: connection.Connection, job: Job, folder: str) -> None:
    """What a worker does until its parent ends it, or is no more."""
    tasks: queue.SimpleQueue[tuple[int, list[PatchRef]]] = queue.SimpleQueue()
    threading.Thread(target=_fetch, args=(pipe, tasks), daemon=True).start()
    teller = _Teller(pipe)
    try:
        while True:
            number, refs = tasks.get()
            write_part(job, refs, Path(folder), number, teller)
            teller.flush()
            pipe.send(("finished", number))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except (UserError, OSError) as error:
        pipe.send(("failed", error))
    except MemoryError:
        pipe.send(("failed", UserError("memory ran out in a worker process of the packing: set workers lower. "
                                       "Finished parts are kept: the same command goes on from them.")))  # fmt: skip
    except Exception:
        pipe.send(("failed", RuntimeError(f"in a worker process:\n{traceback.format_exc()}")))


def _fetch(pipe: connection.Connection, tasks: queue.SimpleQueue[tuple[int, list[PatchRef]]]) -> None:
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):  # the parent is no more
        os._exit(1)


class _Teller:
    """Tells the parent how many patches were read, not too often."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe, self._count, self._told = pipe, 0, time.monotonic()

    def __call__(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._told >= _TELL_S:
            self.flush()

    def flush(self) -> None:
        if self._count:
            self._pipe.send(("read", self._count))
        self._count, self._told = 0, time.monotonic()

"""Read patches to see whether they can be read and how fast: a seeded sample here, or all of them in parallel."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from ssl_sat.data.pack_parts import Job, make_part
from ssl_sat.data.sources.contract import PatchRef

_CHUNK = 64  # patches of a task
_job: Job | None = None  # of a worker process


@dataclass(frozen=True)
class Reading:
    """Patches read, {path: reason} of those that cannot be, seconds, and how many processes read."""

    patches: int
    bad: dict[str, str]
    seconds: float
    processes: int

    @property
    def rate(self) -> float:
        """Patches a second and process."""
        return self.patches / max(self.seconds, 1e-9) / self.processes


def sample(refs: Sequence[PatchRef], count: int, seed: int = 0) -> list[PatchRef]:
    """At most `count` patches, drawn by the seed, in their order."""
    chosen = random.Random(seed).sample(range(len(refs)), min(count, len(refs)))
    return [refs[at] for at in sorted(chosen)]


def read(job: Job, refs: Sequence[PatchRef], workers: int, advance: Callable[[int, int], None]) -> Reading:
    """Read as packing does (records, digests, statistics), writing nothing. `workers` 1 reads in this process."""
    chunks = [refs[at : at + _CHUNK] for at in range(0, len(refs), _CHUNK)]
    workers = min(workers, len(chunks))
    bad: dict[str, str] = {}
    if workers <= 1:
        _read_part(job, refs[:1])  # loads what reading needs (compiled kernels, rasterio), outside the time
        began = time.monotonic()
        for at, chunk in enumerate(chunks):
            bad |= _read_part(job, chunk)
            advance(min((at + 1) * _CHUNK, len(refs)), len(refs))
        return Reading(len(refs), bad, time.monotonic() - began, 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(job,)) as pool:
        list(pool.map(_in_worker, [chunk[:1] for chunk in chunks[:workers]]))
        began = time.monotonic()
        for at, found in enumerate(pool.map(_in_worker, chunks)):
            bad |= found
            advance(min((at + 1) * _CHUNK, len(refs)), len(refs))
        return Reading(len(refs), bad, time.monotonic() - began, workers)


def _begin(job: Job) -> None:
    global _job
    _job = job


def _in_worker(refs: Sequence[PatchRef]) -> dict[str, str]:
    assert _job is not None
    return _read_part(_job, refs)


def _read_part(job: Job, refs: Sequence[PatchRef]) -> dict[str, str]:
    part = make_part(job, refs, lambda chunk: None, lambda patches: None)
    return {refs[at].path: reason for at, reason in part.bad.items()}

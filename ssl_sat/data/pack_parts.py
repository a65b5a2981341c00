"""Parts of a pack: a fixed number of patches each, read by whichever process is free.

Patches in the order of the pack are cut into parts whose size depends on the size of a record and on nothing else:
not on the number of processes, nor on what was read before. So any process can make any part, a killed run loses
unfinished parts only, and the result is the same to the bit. A finished part is a note `parts/NNNNN.npz` (which
patches were kept, digests of their records, reasons for the others, statistics) and its records, which lie in
`parts/NNNNN.bin` until they are appended to patches.bin. The format of packs: docs/pack_format.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_sat.data.sources.contract import Facts, PatchRef, Source, UnreadablePatch
from ssl_sat.data.statistics import BandHistograms, State

PART_BYTES = 64 << 20  # at most, of records in a part; the numbers say how much work a kill costs, and how much disk
PART_PATCHES = 1024  # at most, of patches in a part
_CHUNK_BYTES = 8 << 20  # records gathered before they are written and counted
_TICK = 16  # patches between two words about progress

Tick = Callable[[int], None]
Sink = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Job:
    """What all parts of a pack have in common. `stats_split` None: the statistics are of all patches.

    `counted` is the number of patches listed that the statistics are of.
    """

    source: Source
    facts: Facts
    stats_split: str | None
    counted: int

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers in a record, little-endian."""
        return np.dtype(self.facts.dtype).newbyteorder("<")

    @cached_property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of the groups of a record."""
        return [(len(group.bands), group.height, group.width) for group in self.facts.groups]

    @property
    def items(self) -> int:
        """Numbers in a record."""
        return sum(c * h * w for c, h, w in self.shapes)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return self.items * self.dtype.itemsize

    @property
    def part_patches(self) -> int:
        """Patches in a part (fewer in the last)."""
        return max(1, min(PART_PATCHES, PART_BYTES // self.record_bytes))

    def histograms(self) -> BandHistograms:
        """Statistics of no patch yet."""
        return BandHistograms(self.facts.bands, self.facts.dtype, self.counted)


@dataclass(frozen=True)
class Part:
    """A finished part: positions and reasons of the patches left out, digests (n, 16) of the records, statistics."""

    patches: int
    bad: dict[int, str]
    digests: np.ndarray
    counted: int
    statistics: State

    def save(self, path: Path) -> None:
        """Write the note, so that it is there as a whole or not at all."""
        reasons = json.dumps({str(at): reason for at, reason in self.bad.items()}).encode()
        temporary = temporary_of(path)
        with open(temporary, "wb") as file:
            np.savez(file, patches=self.patches, counted=self.counted, digests=self.digests,
                     bad=np.frombuffer(reasons, np.uint8), **self.statistics)  # type: ignore[arg-type]  # fmt: skip
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Part | None:
        """Read a note; None where there is none or it is damaged (the archive's checksums tell)."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                values = {name: archive[name] for name in archive.files}
            reasons = json.loads(values.pop("bad").tobytes())
            patches, counted = int(values.pop("patches")), int(values.pop("counted"))
            bad = {int(at): str(reason) for at, reason in reasons.items()}
            return cls(patches, bad, values.pop("digests"), counted, values)
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
            return None


def digest_of(record: np.ndarray | memoryview) -> bytes:
    """blake2b-128 of a record."""
    return hashlib.blake2b(record, digest_size=16).digest()


def note_of(folder: Path, number: int) -> Path:
    """The note of a part."""
    return folder / f"{number:05d}.npz"


def records_of(folder: Path, number: int) -> Path:
    """The records of a part that is finished but not in patches.bin yet."""
    return folder / f"{number:05d}.bin"


def temporary_of(path: Path) -> Path:
    """A name beside `path` of this process alone."""
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def make_part(job: Job, refs: Sequence[PatchRef], sink: Sink, tick: Tick) -> Part:
    """Read the patches of one part; records go to `sink` by chunks, `tick` is told how many patches are done."""
    chunk = np.empty((max(1, min(len(refs), _CHUNK_BYTES // job.record_bytes)), job.items), job.dtype)
    histograms, bad, digests = job.histograms(), {}, []
    in_chunk: list[PatchRef] = []
    counted = 0
    for at, ref in enumerate(refs):
        try:
            if ref.problem is not None:
                raise UnreadablePatch(ref.problem)
            _fill(chunk[len(in_chunk)], job, ref)
        except UnreadablePatch as reason:
            bad[at] = str(reason)
        else:
            digests.append(digest_of(chunk[len(in_chunk)]))
            in_chunk.append(ref)
        if len(in_chunk) == len(chunk) or (in_chunk and at == len(refs) - 1):
            sink(chunk[: len(in_chunk)])
            counted += _count(histograms, job, chunk, in_chunk)
            in_chunk = []
        if (at + 1) % _TICK == 0 or at == len(refs) - 1:
            tick(at % _TICK + 1)
    gathered = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
    return Part(len(refs), bad, gathered, counted, histograms.state())


def _fill(record: np.ndarray, job: Job, ref: PatchRef) -> None:
    at = 0
    for array, shape in zip(job.source.read(ref), job.shapes, strict=True):
        if array.shape != shape or array.dtype != job.facts.dtype:
            raise ValueError(f"{ref.id}: {array.dtype} {array.shape} from the source, facts say {job.dtype} {shape}")
        record[at : at + array.size] = array.reshape(-1)
        at += array.size


def _count(histograms: BandHistograms, job: Job, chunk: np.ndarray, refs: list[PatchRef]) -> int:
    """Count the records of the split that the statistics are of; return how many these are."""
    wanted = [at for at, ref in enumerate(refs) if job.stats_split in (None, ref.split)]
    records = chunk[: len(refs)] if len(wanted) == len(refs) else chunk[wanted]
    at = band = 0
    for shape in job.shapes if wanted else ():
        size = shape[0] * shape[1] * shape[2]
        histograms.add(records[:, at : at + size].reshape(-1, *shape), band)
        at, band = at + size, band + shape[0]
    return len(wanted)


def write_part(job: Job, refs: Sequence[PatchRef], folder: Path, number: int, tick: Tick) -> None:
    """Make a part as two files; the note comes last and says that it is finished."""
    path = records_of(folder, number)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb", buffering=0) as file:
            part = make_part(job, refs, lambda records: write_all(file.fileno(), records), tick)
        os.replace(temporary, path)
        part.save(note_of(folder, number))
    except BaseException:
        for left in (temporary, temporary_of(note_of(folder, number))):
            with contextlib.suppress(OSError):
                left.unlink()
        raise


def write_all(descriptor: int, data: np.ndarray | memoryview) -> None:
    """Write all of `data`: a single write may do less, at most 2 GB on Linux."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]

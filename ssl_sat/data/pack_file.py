"""patches.bin while it grows, part by part, and what is found of it after a kill.

`parts/plan.json` holds a digest of everything that decides the parts: spec, facts, the list of patches with splits and
labels. With another plan the work starts afresh. With the same one, the parts that patches.bin begins with are hashed
again, record by record, and cut off at the first that is incomplete or not as its note says; finished parts that
were not appended yet are checked in the same way. Quarantined patches are tried again: one that has been mended
since is taken in, with the parts behind it.

Nothing is synced part by part: a kill does not lose what was written, and what a power failure loses the digests tell.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ssl_sat.data.pack_parts import Job, Part, Tick, digest_of, make_part, note_of, records_of, write_all
from ssl_sat.data.sources.contract import PatchRef, UnreadablePatch
from ssl_sat.spec import UserError

_BUFFER = 8 << 20
_SYNC_BYTES = 1 << 30  # written between two syncs, which keep the kernel from hoarding a disk's minutes of work
_INDEX_BYTES = 400  # of a patch in index.parquet and the tables, generously


class PatchFile:
    """Grows `patches.bin` in `out` by parts in order; `written`, `digests`, `quarantine` and `histograms` grow with it.

    On entering, what an earlier run of the same plan left is taken over: `next` is the first part that is missing
    in patches.bin, `ready` are later ones that are finished beside it.
    """

    def __init__(self, out: Path, job: Job, refs: Sequence[PatchRef], science: object) -> None:
        self.out, self.folder, self.path = out, out / "parts", out / "patches.bin"
        self.job, self.refs = job, refs
        self.count = -(-len(refs) // job.part_patches)
        self.next = self.bytes = self.counted = self._unsynced = 0
        self.ready: set[int] = set()
        self.histograms = job.histograms()
        self.written: list[PatchRef] = []
        self.quarantine: list[tuple[str, str, str]] = []
        self._digests: list[np.ndarray] = []
        self._sha = hashlib.sha256()
        self._plan = {"plan": _digest_of_plan(job, refs, science), "parts": self.count}

    def __enter__(self) -> PatchFile:
        if _read_json(self.folder / "plan.json") != self._plan:
            self._clear()
        self._take_over()
        self._file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            os.fsync(self._file.fileno())
        self._file.close()

    def refs_of(self, number: int) -> Sequence[PatchRef]:
        """The patches of a part."""
        return self.refs[number * self.job.part_patches : (number + 1) * self.job.part_patches]

    @property
    def missing(self) -> list[int]:
        """Parts that are still to be made, in order."""
        return [number for number in range(self.next, self.count) if number not in self.ready]

    @property
    def patches_done(self) -> int:
        """Patches that need not be read again."""
        return len(self.refs) - sum(len(self.refs_of(number)) for number in self.missing)

    @property
    def digests(self) -> np.ndarray:
        """Of the records written, (n, 16) bytes."""
        return np.concatenate([np.empty((0, 16), np.uint8), *self._digests])

    @property
    def sha256(self) -> str:
        """Of patches.bin."""
        return self._sha.hexdigest()

    def check_room(self, parts_in_flight: int) -> None:
        """Raise UserError unless the disk holds what is still to be written."""
        record, part = self.job.record_bytes, self.job.record_bytes * self.job.part_patches
        notes = len(self.missing) * self.histograms.state_bytes(self.job.part_patches)
        records = sum(len(self.refs_of(number)) for number in range(self.next, self.count)) * record
        needed = records + notes + parts_in_flight * part + len(self.refs) * _INDEX_BYTES
        free = shutil.disk_usage(self.out).free
        if needed > free:
            there = f" beside the {self.bytes / 1e9:.1f} GB that are there" if self.bytes else ""
            raise UserError(f"{self.out}: the pack needs {needed / 1e9:.1f} GB{there}, {free / 1e9:.1f} GB are free. "
                            "Make room, or choose another disk with outputs=...")  # fmt: skip

    def make_next(self, tick: Tick) -> None:
        """Make the next part in this process, straight into patches.bin."""
        part = make_part(self.job, self.refs_of(self.next), lambda records: self._write(memoryview(records)), tick)
        part.save(note_of(self.folder, self.next))
        self._add(part)

    def append_next(self) -> None:
        """Append the next part, which is finished, and delete its records beside."""
        part, path = self._note(self.next), records_of(self.folder, self.next)
        if part is None or path.stat().st_size != len(part.digests) * self.job.record_bytes:
            raise RuntimeError(f"{path}: changed while it was packed")
        buffer = memoryview(bytearray(_BUFFER))
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                self._write(buffer[:count])
        self._add(part)
        path.unlink()

    def close_parts(self) -> None:
        """Remove the notes: at once, as far as a later run can see."""
        gone = _being_removed(self.out)
        os.rename(self.folder, gone)
        shutil.rmtree(gone)

    def _write(self, data: memoryview) -> None:
        write_all(self._file.fileno(), data)
        self._sha.update(data)
        self._unsynced += data.nbytes
        if self._unsynced > _SYNC_BYTES:
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def _add(self, part: Part) -> None:
        refs = self.refs_of(self.next)
        self.quarantine += [(refs[at].path, refs[at].id, reason) for at, reason in part.bad.items()]
        self.written += [ref for at, ref in enumerate(refs) if at not in part.bad]
        self._digests.append(part.digests)
        self.histograms.merge(part.statistics)
        self.counted += part.counted
        self.bytes += len(part.digests) * self.job.record_bytes
        self.ready.discard(self.next)
        self.next += 1

    def _note(self, number: int) -> Part | None:
        part, refs = Part.load(note_of(self.folder, number)), self.refs_of(number)
        if part is None or part.patches != len(refs) or len(part.digests) + len(part.bad) != len(refs):
            return None
        return part

    def _clear(self) -> None:
        for path in (self.out / "manifest.json", self.path):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / "plan.json.tmp"
        temporary.write_text(json.dumps(self._plan))
        os.replace(temporary, self.folder / "plan.json")

    def _take_over(self) -> None:
        self.path.touch()
        with open(self.path, "rb", buffering=0) as file:
            while self.next < self.count:
                part = self._note(self.next)
                if part is None or self._mended(part, self.next):
                    break
                sha = self._sha.copy()
                if not _holds(file, part, self.job, sha):
                    break
                self._sha = sha
                self._add(part)
        os.truncate(self.path, self.bytes)
        for number in range(self.next, self.count):
            part = self._note(number)
            if part is not None and not self._mended(part, number) and self._finished(number, part):
                self.ready.add(number)
        keep = {"plan.json"} | {note_of(self.folder, number).name for number in [*range(self.next), *self.ready]}
        keep |= {records_of(self.folder, number).name for number in self.ready}
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def _mended(self, part: Part, number: int) -> bool:
        """Whether a patch of the part was unreadable and no longer is."""
        refs = self.refs_of(number)
        return any(refs[at].problem is None and self._readable(refs[at]) for at in part.bad)

    def _readable(self, ref: PatchRef) -> bool:
        try:
            self.job.source.read(ref)
        except UnreadablePatch:
            return False
        return True

    def _finished(self, number: int, part: Part) -> bool:
        try:
            with open(records_of(self.folder, number), "rb", buffering=0) as file:
                return _holds(file, part, self.job, hashlib.sha256()) and not file.read(1)
        except OSError:
            return False


def _holds(file: BinaryIO, part: Part, job: Job, sha: hashlib._Hash) -> bool:
    """Whether the file goes on with the records of the part; `sha` takes them in, in a thread of its own."""
    size = job.record_bytes
    at_once = max(1, _BUFFER // size)
    with ThreadPoolExecutor(1) as aside:
        for first in range(0, len(part.digests), at_once):
            digests = part.digests[first : first + at_once]
            records = memoryview(file.read(len(digests) * size))
            if len(records) != len(digests) * size:
                return False
            hashed = aside.submit(sha.update, records)
            same = all(digest_of(records[at * size : (at + 1) * size]) == digests[at].tobytes()
                       for at in range(len(digests)))  # fmt: skip
            hashed.result()
            if not same:
                return False
    return True


def remove_leftovers(out: Path) -> None:
    """Finish what a kill in `close_parts` left."""
    shutil.rmtree(_being_removed(out), ignore_errors=True)


def _being_removed(out: Path) -> Path:
    return out / ".parts.removed"


def _digest_of_plan(job: Job, refs: Sequence[PatchRef], science: object) -> str:
    rules = (asdict(job.facts), job.part_patches, job.stats_split, science)
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode())
    for ref in refs:
        digest.update(repr(ref).encode())
    return digest.hexdigest()


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None

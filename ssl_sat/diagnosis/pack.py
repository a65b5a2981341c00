"""A finished pack: its tables agree with one another, its records with their digests; what training on it needs."""

from __future__ import annotations

import csv
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssl_sat.diagnosis.finding import Finding, gigabytes
from ssl_sat.spec import UserError

if TYPE_CHECKING:
    from ssl_sat.data.packed import Pack

_AGAIN = "pack again: python -m ssl_sat.pack data=... data.root=..."
_CHUNK = 256  # records that are held at once


def examine_pack(path: Path, samples: int, deep: bool, workers: int, watch: Callable) -> Iterator[Finding]:
    """All findings about the pack at `path` (an artifact, a link to one, or a bare folder)."""
    from ssl_sat.data.packed import Pack

    try:
        pack = Pack.open(path)
    except UserError as error:
        yield Finding("WRONG", "pack", str(error), "" if "python -m" in str(error) else _AGAIN)
        return
    manifest = pack.manifest
    sizes = ", ".join(f"{name} {len(pack.rows(name)):,}" for name in pack.splits)
    records = f"{manifest.n:,} records of {manifest.record_bytes:,} bytes"
    size = gigabytes(manifest.n * manifest.record_bytes)
    yield Finding("ok", "pack", f"{manifest.source}, {manifest.sensor} {manifest.level}, {records} ({size}): {sizes}")
    tables = list(_tables(pack))
    yield from tables
    if not any(finding.subject == "index" and finding.state == "WRONG" for finding in tables):
        yield from _records(pack, samples, deep, workers, watch)
    yield from _content(pack)
    from ssl_sat.diagnosis.source import residency_of

    first, last = manifest.splits.get("train", [0, manifest.n])
    what = "training patches" if "train" in manifest.splits else "patches"
    yield residency_of(last - first, manifest.record_bytes, what)


def _tables(pack: Pack) -> Iterator[Finding]:
    manifest = pack.manifest
    try:
        problems = list(_index_problems(pack))
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among them
        problems = [f"index.parquet cannot be read: {str(error).splitlines()[0]}"]
    for problem in problems:
        yield Finding("WRONG", "index", problem, _AGAIN)
    if not problems:
        yield Finding("ok", "index", f"{manifest.n:,} rows in the order of the splits, names unique")
    try:
        bands = pack.stats.bands
        if list(bands) != manifest.bands and sorted(bands) != sorted(manifest.bands):
            yield Finding("WRONG", "stats", f"stats.json is of the bands {', '.join(bands)}", _AGAIN)
        else:
            yield _stats(pack)
    except UserError as error:
        yield Finding("WRONG", "stats", str(error), _AGAIN)
    yield _quarantine(pack)


def _index_problems(pack: Pack) -> Iterator[str]:
    manifest, ids = pack.manifest, pack.ids
    if len(ids) != manifest.n:
        yield f"index.parquet has {len(ids):,} rows, manifest.json says {manifest.n:,}"
        return
    if len(set(ids)) != len(ids):
        yield f"{len(ids) - len(set(ids)):,} names occur twice"
    expected = np.full(manifest.n, "", object)
    for name, (first, last) in manifest.splits.items():
        expected[first:last] = name
    differ = int((np.array(pack.column("split").to_pylist(), object) != expected).sum())
    if differ:
        yield f"{differ:,} rows are of another split than manifest.json says"


def _stats(pack: Pack) -> Finding:
    stats = pack.stats
    constant = [name for name, band in stats.bands.items() if band.std == 0]
    if constant:
        return Finding("note", "stats", f"{', '.join(constant)} have the same value in every pixel of '{stats.split}'",
                       "leave them out with bands=..., or look at the raw files")  # fmt: skip
    return Finding("ok", "stats", f"{len(stats.bands)} bands, from {stats.patches:,} patches of '{stats.split}'")


def _quarantine(pack: Pack) -> Finding:
    count, file = pack.manifest.quarantined, pack.folder / "quarantine.csv"
    if not file.is_file():
        return Finding("WRONG" if count else "note", "quarantine", "quarantine.csv is missing", _AGAIN if count else "")
    with open(file, newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    if len(rows) != count:
        return Finding("WRONG", "quarantine", f"{len(rows)} rows, manifest.json says {count}", _AGAIN)
    if not rows:
        return Finding("ok", "quarantine", "empty: every patch could be read")
    text = f"{count:,} patches were left out; the first: {rows[0]['id']}: {rows[0]['reason']}"
    return Finding("note", "quarantine", text, f"all reasons: {file}")


def _records(pack: Pack, samples: int, deep: bool, workers: int, watch: Callable) -> Iterator[Finding]:
    """Compare records to their digests, in threads: hashing lets other threads run."""
    total = pack.manifest.n
    rows = range(total) if deep else sorted(random.Random(0).sample(range(total), min(samples, total)))
    digests = pack.column("digest").to_pylist()
    chunks = [list(rows[at : at + _CHUNK]) for at in range(0, len(rows), _CHUNK)]
    bad: list[int] = []
    began, done = time.monotonic(), 0
    with watch("verify", "records") as advance, ThreadPoolExecutor(workers) as pool:
        for chunk, found in zip(chunks, pool.map(lambda chunk: _differing(pack, chunk, digests), chunks), strict=True):
            bad += found
            done += len(chunk)
            advance(done, len(rows), pack.manifest.record_bytes)
    seconds = max(time.monotonic() - began, 1e-9)
    rate = f"{gigabytes(len(rows) * pack.manifest.record_bytes / seconds)} a second"
    of = f"all {total:,} records" if deep else f"a sample of {len(rows):,} of {total:,} records"
    if bad:
        first = ", ".join(f"row {row} ({pack.ids[row]})" for row in bad[:3])
        yield Finding("WRONG", "records", f"{len(bad):,} of {of} differ from their digests: {first}", _AGAIN)
    else:
        more = "" if deep else "; deep=true compares all"
        yield Finding("ok", "records", f"{of} have their digests ({rate}, hashing included{more})")
    if deep:
        yield _whole_file(pack, watch)


def _differing(pack: Pack, rows: list[int], digests: list[str]) -> list[int]:
    records = np.ascontiguousarray(pack.records[rows[0] : rows[-1] + 1] if rows[-1] - rows[0] == len(rows) - 1
                                   else pack.records[rows])  # fmt: skip
    return [row for row, record in zip(rows, records, strict=True)
            if hashlib.blake2b(record, digest_size=16).hexdigest() != digests[row]]  # fmt: skip


def _whole_file(pack: Pack, watch: Callable) -> Finding:
    """The sha256 of patches.bin, as the manifest has it."""
    sha, done, path = hashlib.sha256(), 0, pack.folder / "patches.bin"
    total = path.stat().st_size
    with watch("sha256", "MB") as advance, open(path, "rb") as file:
        while chunk := file.read(8 << 20):
            sha.update(chunk)
            done += len(chunk)
            advance(done // 1_000_000, max(1, total // 1_000_000))
    if sha.hexdigest() != pack.manifest.patches_sha256:
        return Finding("WRONG", "file", "the sha256 of patches.bin is not that of manifest.json", _AGAIN)
    return Finding("ok", "file", "patches.bin has the sha256 of manifest.json")


def _content(pack: Pack) -> Iterator[Finding]:
    """What is in order as a file but may not be what the user wants."""
    manifest = pack.manifest
    if manifest.duplicates_across_splits:
        yield Finding("note", "splits", f"{manifest.duplicates_across_splits:,} records are, bit for bit, also in an "
                      "earlier split: a test on them is no test", "see the digests in index.parquet")  # fmt: skip
    if "train" not in manifest.splits:
        there = ", ".join(manifest.splits)
        yield Finding("note", "splits", f"no training split (there are: {there}): good for testing, not for training")
    if manifest.absent:
        yield Finding("note", "splits", f"{manifest.absent:,} patches that the lists name were not on disk")
    if manifest.synthetic:
        yield Finding("note", "origin", "synthetic: everything made from it is stamped DEMO DATA")

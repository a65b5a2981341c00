"""Writing packs: list, read patch by patch, stream fixed-size records. The format: docs/pack_format.md."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ssl_sat.data import SOURCES
from ssl_sat.data.sources.contract import Facts, Listing, PatchRef, Source, UnreadablePatch
from ssl_sat.data.sources.scenes import parameters
from ssl_sat.data.spec import DataSpec, ScenesSpec
from ssl_sat.data.splits import digest_file, rank
from ssl_sat.data.statistics import BandHistograms
from ssl_sat.spec import UserError

FORMAT = "ssl_sat.pack/1"
_CHUNK_BYTES = 8 << 20  # records gathered before they are written, hashed and counted
Progress = Callable[[int, int], None]


def source_digest(spec: DataSpec) -> dict[str, Any]:
    """Digest of the inputs outside the spec, without decoding anything: names on disk, file sizes, split files.

    Two folders with equal digests are taken for the same data set in fingerprints; patches.bin has its own hash.
    """
    if isinstance(spec, ScenesSpec):
        return {"synthetic": parameters(spec)}
    source: Source = SOURCES.build(spec)
    lines = sorted(f"{name}\t{size}\n" for name, size in source.inventory())
    files = {name: digest_file(path) for name, path in source.split_files().items()}
    return {
        "patches": len(lines),
        "names_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "split_files": dict(sorted(files.items())),
    }


def write_pack(spec: DataSpec, out: Path, progress: Progress | None = None) -> dict[str, float | int | str]:
    """Pack the data set of `spec` into the folder `out` and return metrics (counts and hashes, no times).

    Unreadable patches are listed in quarantine.csv; UserError when their share exceeds `spec.max_quarantined`.
    """
    source: Source = SOURCES.build(spec)
    listing = source.listing()
    facts = source.facts
    refs = sorted(listing.refs, key=lambda ref: (rank(ref.split), ref.id))
    out.mkdir(parents=True, exist_ok=True)
    has_train = any(ref.split == "train" for ref in refs)
    counted = sum(ref.split == "train" or not has_train for ref in refs)
    writer = _Writer(out, facts, BandHistograms(facts.bands, facts.dtype, counted), "train" if has_train else None)
    _check_room(out, len(refs) * writer.record_bytes)
    with writer:
        for done, (ref, arrays, reason) in enumerate(_read_all(source, refs), start=1):
            writer.add(ref, arrays, reason)
            if progress is not None:
                progress(done, len(refs))
    _write_quarantine(out / "quarantine.csv", writer.quarantine)
    _check_quarantine(spec, out, writer, len(refs))
    if has_train and not any(ref.split == "train" for ref in writer.written):
        raise UserError(f"{spec.name}: every training patch is unreadable; reasons in {out / 'quarantine.csv'}.")
    _write_index(out / "index.parquet", writer, listing)
    duplicates = _across_splits(writer)
    _write_json(out / "stats.json", _stats(writer, facts))
    manifest = _manifest(spec, facts, listing, writer, duplicates)
    _write_json(out / "manifest.json", manifest)
    sizes = {f"n_{name}": last - first for name, (first, last) in manifest["splits"].items()}
    kept = ("n", "record_bytes", "quarantined", "absent", "unlisted", "duplicates_across_splits", "patches_sha256")
    return {key: manifest[key] for key in kept} | sizes | {"classes": len(listing.classes), "bytes": writer.bytes}


def _read_all(source: Source, refs: list[PatchRef]) -> Iterator[tuple[PatchRef, list[np.ndarray], str | None]]:
    """Patches in order, each with its arrays or the reason why there are none."""
    for ref in refs:
        if ref.problem is not None:
            yield ref, [], ref.problem
            continue
        try:
            yield ref, source.read(ref), None
        except UnreadablePatch as reason:
            yield ref, [], str(reason)


class _Writer:
    """Streams records to patches.bin; hashes and counts them by chunks, so that memory stays small."""

    def __init__(self, out: Path, facts: Facts, histograms: BandHistograms, stats_split: str | None) -> None:
        self.out, self.facts, self.histograms, self.stats_split = out, facts, histograms, stats_split
        self.dtype = np.dtype(facts.dtype).newbyteorder("<")
        self.shapes = [(len(group.bands), group.height, group.width) for group in facts.groups]
        self.items = sum(c * h * w for c, h, w in self.shapes)
        self.written: list[PatchRef] = []
        self.digests: list[str] = []
        self.quarantine: list[tuple[str, str, str]] = []
        self.bytes = self.counted = 0
        self._sha = hashlib.sha256()
        self._chunk = np.empty((max(1, _CHUNK_BYTES // (self.items * self.dtype.itemsize)), self.items), self.dtype)
        self._in_chunk: list[PatchRef] = []

    def __enter__(self) -> _Writer:
        self._file = open(self.out / "patches.bin", "wb")
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._file.close()

    @property
    def record_bytes(self) -> int:
        return self.items * self.dtype.itemsize

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def add(self, ref: PatchRef, arrays: list[np.ndarray], reason: str | None) -> None:
        if reason is not None:
            self.quarantine.append((ref.path, ref.id, reason))
            return
        record, at = self._chunk[len(self._in_chunk)], 0
        for array, shape in zip(arrays, self.shapes, strict=True):
            if array.shape != shape or array.dtype != self.facts.dtype:
                raise ValueError(
                    f"{ref.id}: {array.dtype} {array.shape} from the source, facts say {self.dtype} {shape}"
                )
            record[at : at + array.size] = array.reshape(-1)
            at += array.size
        self.written.append(ref)
        self.digests.append(hashlib.blake2b(record, digest_size=16).hexdigest())
        self._in_chunk.append(ref)
        if len(self._in_chunk) == len(self._chunk):
            self._flush()

    def _flush(self) -> None:
        records, refs = self._chunk[: len(self._in_chunk)], self._in_chunk
        self._file.write(records)  # type: ignore[arg-type]
        self._sha.update(records)
        self.bytes += records.nbytes
        self._count(records[[at for at, ref in enumerate(refs) if self.stats_split in (None, ref.split)]])
        self._in_chunk = []

    def _count(self, records: np.ndarray) -> None:
        at = band = 0
        for shape in self.shapes if len(records) else ():
            size = shape[0] * shape[1] * shape[2]
            self.histograms.add(records[:, at : at + size].reshape(-1, *shape), band)
            at, band = at + size, band + shape[0]
        self.counted += len(records)


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UserError(f"{out}: the pack needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there.")


def _check_quarantine(spec: DataSpec, out: Path, writer: _Writer, total: int) -> None:
    bad = len(writer.quarantine)
    if not bad:
        return
    path, _, reason = writer.quarantine[0]
    first = f"The first: {path}: {reason}. All are listed in {out / 'quarantine.csv'}."
    if bad == total:
        raise UserError(f"{spec.name}: not one of {total} patches can be read. {first}")
    if bad > spec.max_quarantined * total:
        raise UserError(
            f"{spec.name}: {bad} of {total} patches ({bad / total:.1%}) cannot be read, more than data.max_quarantined="
            f"{spec.max_quarantined:g}. {first} Repair the data set or raise the limit."
        )


def _across_splits(writer: _Writer) -> int:
    """Patches of one split whose record, bit for bit, is also in an earlier split: leakage that names do not show."""
    first_split: dict[str, str] = {}
    for ref, digest in zip(writer.written, writer.digests, strict=True):
        first_split.setdefault(digest, ref.split)
    return sum(first_split[digest] != ref.split for ref, digest in zip(writer.written, writer.digests, strict=True))


def _split_ranges(refs: list[PatchRef]) -> dict[str, list[int]]:
    ranges: dict[str, list[int]] = {}
    for row, ref in enumerate(refs):
        ranges.setdefault(ref.split, [row, row])[1] = row + 1
    return ranges


def _manifest(spec: DataSpec, facts: Facts, listing: Listing, writer: _Writer, duplicates: int) -> dict[str, Any]:
    finest = [group.gsd_m for group in facts.groups if group.gsd_m is not None]
    return {
        "format": FORMAT,
        "source": spec.name,
        "sensor": facts.sensor,
        "level": facts.level,
        "bands": list(facts.bands),
        "groups": [asdict(group) | {"bands": list(group.bands)} for group in facts.groups],
        "dtype": facts.dtype,
        "record_bytes": writer.record_bytes,
        "n": len(writer.written),
        "splits": _split_ranges(writer.written),
        "classes": list(listing.classes),
        "label_kind": listing.label_kind,
        "scale": facts.scale,
        "offset": facts.offset,
        "decode": dict(facts.decode),
        "decode_sha256": hashlib.sha256(json.dumps(dict(facts.decode), sort_keys=True).encode()).hexdigest(),
        "gsd_m": min(finest) if finest else None,
        "synthetic": facts.synthetic,
        "quarantined": len(writer.quarantine),
        "absent": listing.absent,
        "unlisted": listing.unlisted,
        "duplicates_across_splits": duplicates,
        "split_files": dict(sorted(listing.split_files.items())),
        "patches_sha256": writer.sha256,
    }


def _stats(writer: _Writer, facts: Facts) -> dict[str, Any]:
    return {
        "split": writer.stats_split or "all",
        "patches": writer.counted,
        "unit": "display" if facts.level == "display" else "reflectance",
        "percentiles": "exact" if writer.histograms.integer else "sampled",
        "bands": writer.histograms.summary(facts.scale, facts.offset),
    }


def _write_index(path: Path, writer: _Writer, listing: Listing) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    refs, number = writer.written, {name: at for at, name in enumerate(listing.classes)}
    single = listing.label_kind == "single"
    columns = {
        "id": pa.array([ref.id for ref in refs], pa.string()),
        "split": pa.array([ref.split for ref in refs], pa.string()),
        "label": pa.array([number[ref.labels[0]] if single else -1 for ref in refs], pa.int64()),
        "labels": pa.array(
            [[number[name] for name in ref.labels if name in number] for ref in refs], pa.list_(pa.int32())
        ),
        "path": pa.array([ref.path for ref in refs], pa.string()),
        "place": pa.array([ref.place for ref in refs], pa.string()),
        "time": pa.array([ref.time for ref in refs], pa.string()),
        "digest": pa.array(writer.digests, pa.string()),
    }
    pq.write_table(pa.table(columns), path)


def _write_quarantine(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "id", "reason"))
        table.writerows(rows)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")

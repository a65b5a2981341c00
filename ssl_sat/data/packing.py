"""Writing packs: list, read in parts, stream fixed-size records. The format: docs/pack_format.md."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_sat.data import SOURCES
from ssl_sat.data.pack_file import PatchFile, remove_leftovers
from ssl_sat.data.pack_parts import Job
from ssl_sat.data.pack_workers import Workers, in_flight, usable_cores
from ssl_sat.data.pixel_facts import doubts_of
from ssl_sat.data.sources.contract import Facts, Listing, PatchRef, Source, decode_digest
from ssl_sat.data.sources.scenes import parameters
from ssl_sat.data.spec import DataSpec, ScenesSpec
from ssl_sat.data.splits import digest_file, rank
from ssl_sat.spec import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "ssl_sat.pack/1"
Progress = Callable[[int, int, int], None]  # patches done, of how many, bytes of each
_FEW_PARTS = 4  # fewer are read by the calling process alone, unless a number of workers is asked for
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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


def files_digest(root: Path) -> str:
    """Digest of path, size and time of change of every file below `root`: for work that reads the files themselves.

    A file that is written again, at the same size, is another one. A copy of the folder without its times is, too.
    """
    lines = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            told = os.stat(path, follow_symlinks=os.path.exists(path))
            lines.append(f"{os.path.relpath(path, root)}\t{told.st_size}\t{told.st_mtime_ns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def write_pack(
    spec: DataSpec, out: Path, progress: Progress | None = None, workers: int | None = 1
) -> dict[str, float | int | str]:
    """Pack the data set of `spec` into the folder `out` and return metrics (counts and hashes, no times).

    `workers` processes read (None: one for each usable core, or none beside this one where little is to be read); the
    result does not depend on them. Work that an earlier, killed call with the same data left in `out` is taken over.
    `progress` is told first what is done already, then every step. Unreadable patches are listed in quarantine.csv;
    UserError when their share exceeds `spec.max_quarantined`, when the disk is too small or full, or a worker dies.
    """
    source: Source = SOURCES.build(spec)
    listing = source.listing()
    facts = source.facts
    refs = sorted(listing.refs, key=lambda ref: (rank(ref.split), ref.id))
    source.forget_listing()  # of the listing, what is needed is in `refs` by now
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    finished = _finished(spec, out, facts, listing, refs)
    if finished is not None:
        return finished
    has_train = any(ref.split == "train" for ref in refs)
    counted = sum(ref.split == "train" or not has_train for ref in refs)
    job = Job(source, facts, "train" if has_train else None, counted)
    with PatchFile(out, job, refs, spec.science()) as file:
        _make_parts(file, workers, progress)
    _write_quarantine(out / "quarantine.csv", file.quarantine)
    _check_quarantine(spec, out, file, len(refs))
    if has_train and not any(ref.split == "train" for ref in file.written):
        raise UserError(f"{spec.name}: every training patch is unreadable; reasons in {out / 'quarantine.csv'}.")
    _write_table(_table(file.written, file.digests, listing), out / "index.parquet")
    _write_json(out / "stats.json", _stats(file, facts))
    manifest = _manifest(
        spec, facts, listing, file.written, file.digests, len(file.quarantine), file.sha256, doubts_of(out, facts)
    )
    _write_json(out / "manifest.json", manifest)
    file.close_parts()
    return _metrics(manifest)


def _make_parts(file: PatchFile, workers: int | None, progress: Progress | None) -> None:
    """Bring patches.bin to its end, by this process alone or with others beside it."""
    count = _processes(file, workers)
    file.check_room(in_flight(count) if count > 1 else 0)
    done, total, size = file.patches_done, len(file.refs), file.job.record_bytes

    def tick(patches: int) -> None:
        nonlocal done
        done += patches
        if progress is not None:
            progress(done, total, size)

    if done and progress is not None:
        print(f"  pack: {done} of {total} patches were read before", flush=True)
    tick(0)
    try:
        with ExitStack() as stack:
            pool = None
            if count > 1:
                pool = Workers(file.job, file.folder, count, file.missing, file.refs_of, tick)
                stack.enter_context(pool)
            while file.next < file.count:
                if file.next in file.ready:
                    file.append_next()
                elif pool is None:
                    file.make_next(tick)
                else:
                    pool.wait_for(file.next)
                    file.append_next()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"{file.out}: {error.strerror} after {done} of {total} patches. Make room: the same command goes on "
            "from there."
        ) from None


def _processes(file: PatchFile, workers: int | None) -> int:
    """How many processes shall read; one means this one. Starting others takes a second: not for a few parts."""
    left = len(file.missing)
    if workers is None:
        return min(usable_cores(), left) if left >= _FEW_PARTS else 1
    return max(1, min(workers, left))


def _finished(
    spec: DataSpec, out: Path, facts: Facts, listing: Listing, refs: list[PatchRef]
) -> dict[str, float | int | str] | None:
    """Metrics of the pack of these very patches that is in `out` already, undamaged: of a kill while publishing."""
    import pyarrow.parquet as pq

    if not (out / "manifest.json").is_file() or (out / "parts").exists():
        return None
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        with open(out / "quarantine.csv", newline="", encoding="utf-8") as file:
            bad = {row["id"] for row in csv.DictReader(file)}
        json.loads((out / "stats.json").read_bytes())
        table = pq.read_table(out / "index.parquet")
        digests = np.frombuffer(bytes.fromhex("".join(table["digest"].to_pylist())), np.uint8).reshape(-1, 16)
        written = [ref for ref in refs if ref.id not in bad]
        if len(digests) != len(written) or not table.equals(_table(written, digests, listing)):
            return None
        wanted = _manifest(
            spec, facts, listing, written, digests, len(bad), digest_file(out / "patches.bin"), doubts_of(out, facts)
        )
    except (OSError, ValueError, KeyError):
        return None
    return _metrics(manifest) if json.loads(json.dumps(wanted)) == manifest else None


def _metrics(manifest: dict[str, Any]) -> dict[str, float | int | str]:
    sizes = {f"n_{name}": last - first for name, (first, last) in manifest["splits"].items()}
    kept = ("n", "record_bytes", "quarantined", "absent", "unlisted", "filtered", "duplicates_across_splits",
            "patches_sha256")  # fmt: skip
    counts = {"classes": len(manifest["classes"]), "bytes": manifest["n"] * manifest["record_bytes"]}
    return {key: manifest[key] for key in kept} | sizes | counts | {"doubts": " | ".join(manifest["doubts"])}


def _check_quarantine(spec: DataSpec, out: Path, writer: PatchFile, total: int) -> None:
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


def _across_splits(written: list[PatchRef], digests: np.ndarray) -> int:
    """Patches of one split whose record, bit for bit, is also in an earlier split: leakage that names do not show."""
    if not written:
        return 0
    numbers = {split: number for number, split in enumerate(dict.fromkeys(ref.split for ref in written))}
    split_of = np.array([numbers[ref.split] for ref in written])
    _, first, group = np.unique(digests.view("V16").ravel(), return_index=True, return_inverse=True)
    return int((split_of[first][group] != split_of).sum())


def _split_ranges(refs: list[PatchRef]) -> dict[str, list[int]]:
    ranges: dict[str, list[int]] = {}
    for row, ref in enumerate(refs):
        ranges.setdefault(ref.split, [row, row])[1] = row + 1
    return ranges


def _manifest(
    spec: DataSpec,
    facts: Facts,
    listing: Listing,
    written: list[PatchRef],
    digests: np.ndarray,
    quarantined: int,
    sha256: str,
    doubts: list[str],
) -> dict[str, Any]:
    finest = [group.gsd_m for group in facts.groups if group.gsd_m is not None]
    return {
        "format": FORMAT,
        "source": spec.name,
        "sensor": facts.sensor,
        "level": facts.level,
        "bands": list(facts.bands),
        "groups": [asdict(group) | {"bands": list(group.bands)} for group in facts.groups],
        "dtype": facts.dtype,
        "record_bytes": sum(len(group.bands) * group.height * group.width for group in facts.groups)
        * np.dtype(facts.dtype).itemsize,
        "n": len(written),
        "splits": _split_ranges(written),
        "classes": list(listing.classes),
        "label_kind": listing.label_kind,
        "scale": facts.scale,
        "offset": facts.offset,
        "offset_basis": facts.offset_basis,
        "baselines": list(facts.baselines),
        "doubts": doubts,
        "decode": dict(facts.decode),
        "decode_sha256": decode_digest(facts.decode),
        "gsd_m": min(finest) if finest else None,
        "synthetic": facts.synthetic,
        "quarantined": quarantined,
        "absent": listing.absent,
        "unlisted": listing.unlisted,
        "filtered": listing.filtered,
        "duplicates_across_splits": _across_splits(written, digests),
        "split_files": dict(sorted(listing.split_files.items())),
        "patches_sha256": sha256,
    }


def _stats(writer: PatchFile, facts: Facts) -> dict[str, Any]:
    return {
        "split": writer.job.stats_split or "all",
        "patches": writer.counted,
        "unit": "display" if facts.level == "display" else "reflectance",
        "percentiles": "exact" if writer.histograms.integer else "sampled",
        "bands": writer.histograms.summary(facts.scale, facts.offset),
    }


def _table(refs: list[PatchRef], digests: np.ndarray, listing: Listing) -> pa.Table:
    """index.parquet: a row per record."""
    import pyarrow as pa

    number = {name: at for at, name in enumerate(listing.classes)}
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
        "country": pa.array([ref.country for ref in refs], pa.string()),
        "digest": pa.array([digest.tobytes().hex() for digest in digests], pa.string()),
    }
    return pa.table(columns)


def _write_table(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path)


def _write_quarantine(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "id", "reason"))
        table.writerows(rows)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")

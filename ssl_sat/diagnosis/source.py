"""A data set as it lies unpacked: is it the right folder, are its lists there, can patches be read, what it costs."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_sat.data import SOURCES
from ssl_sat.data.sources.contract import Listing, PatchRef, Source
from ssl_sat.data.spec import DataSpec
from ssl_sat.data.splits import digest_file, rank
from ssl_sat.diagnosis.environment import existing
from ssl_sat.diagnosis.finding import Finding, State, duration, gigabytes
from ssl_sat.fetch.catalogue import DATASETS
from ssl_sat.spec import UserError, suggest

Watch = Callable[[str, str], AbstractContextManager[Any]]
_SHOWN = 3  # damaged patches named
_INDEX_BYTES = 400  # of a patch in the tables of a pack, generously


@dataclass(frozen=True)
class Look:
    """How to look: patches of a sample, or all (`deep`), by how many processes, where the pack would lie."""

    samples: int
    deep: bool
    workers: int
    outputs: Path
    watch: Watch


def examine(spec: DataSpec, look: Look, packed: Path | None) -> Iterator[Finding]:
    """All findings about a data set, each error once. `packed` is the finished pack of this very data, if there is one.
    """  # fmt: skip
    told: set[str] = set()
    for finding in _examine(spec, look, packed):
        if finding.state != "WRONG" or finding.text not in told:
            yield finding
        told.add(finding.text)


def _examine(spec: DataSpec, look: Look, packed: Path | None) -> Iterator[Finding]:
    source: Source = SOURCES.build(spec)
    if spec.name == "scenes":
        yield Finding("ok", "data", "synthetic scenes are written when they are first needed; nothing to fetch")
        return
    try:
        root = source.root
        count = len(source.inventory())
    except UserError as error:
        yield Finding("WRONG", "folder", str(error), _nearby(spec))
        return
    if not count:
        yield Finding(
            "WRONG", "folder", f"no patches in '{root}' (data.root). It must be {source.needs}.", _nearby(spec)
        )
        return
    yield _count(spec, root, count)
    yield from _lists(source)
    began = time.monotonic()
    listing, source, found = _listing(source)
    seconds = time.monotonic() - began
    yield from found
    yield from _read(source, listing, look, seconds, packed)


def _count(spec: DataSpec, root: Path, count: int) -> Finding:
    known = DATASETS.get(spec.name)
    if known is None or count == known.patches:
        published = ", as many as were published" if known else ""
        return Finding("ok", "folder", f"{root}: {count:,} patches{published}")
    text = f"{root}: {count:,} patches, {known.patches:,} were published"
    return Finding("note", "folder", text, f"the whole set: python -m ssl_sat.download {spec.name}")


def _nearby(spec: DataSpec) -> str:
    """Where the data set may be instead: a folder of a similar name, or one below that holds patches."""
    if spec.root is None:
        return ""
    root = Path(spec.root).expanduser()
    if not root.is_dir():
        above = existing(root)
        missing = root.absolute().relative_to(above).parts[0]
        names = [path.name for path in above.iterdir() if path.is_dir()]
        return f"'{above}' has no '{missing}'{suggest(missing, names)}"
    for folder in _below(root, 200):
        try:
            if len(SOURCES.build(spec.model_copy(update={"root": str(folder)})).inventory()):
                return f"there are patches in '{folder}': data.root={folder}"
        except (UserError, OSError):
            continue
    return ""


def _below(root: Path, limit: int) -> list[Path]:
    """At most `limit` folders, two levels deep, those nearest first."""
    first = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))[:limit]
    second = [path for folder in first[:20] for path in sorted(folder.iterdir())[:limit] if path.is_dir()]
    return [root.parent, *first, *second][:limit]


def _lists(source: Source) -> Iterator[Finding]:
    """The files that decide splits and labels: there, and as published where that is known."""
    try:
        files = source.split_files()
    except UserError as error:
        yield Finding("WRONG", "lists", str(error))
        return
    if not files:
        return
    published = {remote.name: remote.sha256 for data in DATASETS.values() for remote in data.lists}
    other = [name for name, path in files.items() if published.get(name) not in (None, digest_file(path))]
    place = ", ".join(sorted({str(path.parent) for path in files.values()}))
    if other:
        then = f"unless they are meant to differ: python -m ssl_sat.download {source.spec.name} only=lists to=<folder>"
        yield Finding("note", "lists", f"not as published: {', '.join(sorted(other))} (in {place})", then)
        return
    same = ", as published" if all(name in published for name in files) else ""
    yield Finding("ok", "lists", f"{', '.join(sorted(files))} in {place}{same}")


def _listing(source: Source) -> tuple[Listing | None, Source, list[Finding]]:
    """The listing that packing would make, and the source to read from.

    Where the lists are in the way of it, the source is one without splits, so that the patches can be looked at.
    """
    try:
        listing = source.listing()
    except UserError as error:
        without = {name: value for name, value in (("split", "none"), ("drop", ())) if hasattr(source.spec, name)}
        plain: Source = SOURCES.build(source.spec.model_copy(update=without))
        return None, plain, [Finding("WRONG", "splits", str(error))]
    sizes = Counter(ref.split for ref in listing.refs)
    text = ", ".join(f"{name} {count:,}" for name, count in sorted(sizes.items(), key=lambda item: rank(item[0])))
    left = {"named by a list but not on disk": listing.absent, "on disk but in no list": listing.unlisted,
            "left out by data.drop, data.classes and the like": listing.filtered}  # fmt: skip
    outside = "".join(f"; {count:,} {what}" for what, count in left.items() if count)
    classes = f"{len(listing.classes)} classes" if listing.classes else "no labels"
    state: State = "note" if listing.absent else "ok"
    findings = [Finding(state, "splits", f"{text} ({classes}){outside}")]
    if "train" not in sizes:
        findings.append(Finding("note", "splits", "no training split: good for testing, not for training"))
    return listing, source, findings


def _read(
    source: Source, listing: Listing | None, look: Look, listing_s: float, packed: Path | None
) -> Iterator[Finding]:
    """Read a sample or all; what is damaged and, where the listing is sound, what packing and training cost."""
    from ssl_sat.data.pack_parts import Job
    from ssl_sat.diagnosis import reading

    try:
        refs = listing.refs if listing else tuple(source.found)
        facts = source.facts
    except UserError as error:
        yield Finding("WRONG", "pixels", str(error))
        return
    job = Job(source, facts, None, len(refs))
    few = refs if look.deep else reading.sample(refs, look.samples)
    with look.watch("read", "patches") as advance:
        done = reading.read(job, few, look.workers if look.deep else 1, advance)
    bands = ", ".join(f"{len(g.bands)} at {g.height}x{g.width} px" for g in facts.groups)
    yield Finding("ok", "pixels", f"{facts.sensor} {facts.level}, {facts.dtype}, bands: {bands}")
    yield _damage(done, len(refs), source.spec.max_quarantined, look.deep)
    if listing:
        parts = -(-len(refs) // job.part_patches)
        seconds = listing_s + len(refs) / max(done.rate, 1e-9) / min(look.workers, parts)
        yield from _costs(job.record_bytes, refs, seconds, done.rate, look, packed)


def _damage(done: Any, total: int, tolerated: float, deep: bool) -> Finding:
    """What cannot be read, and how much of the whole that may be (Clopper-Pearson, one-sided 95 %)."""
    from scipy.stats import beta

    bad, whole = len(done.bad), done.patches == total
    of = f"all {total:,} patches" if whole else f"a sample of {done.patches:,} of {total:,} patches"
    most = float(beta.ppf(0.95, bad + 1, done.patches - bad)) if bad < done.patches else 1.0
    at_most = "" if whole else f" (at 95 % confidence, less than {most:.1%} of all are damaged; deep=true reads all)"
    if not bad:
        return Finding("ok", "patches", f"{of} read, none is damaged{at_most}")
    first = [f"{path}: {reason}" for path, reason in list(done.bad.items())[:_SHOWN]]
    more = [f"... and {bad - _SHOWN:,} more"] if bad > _SHOWN else []
    text = "\n".join([f"{bad:,} of {of} cannot be read{at_most}:", *first, *more])
    if bad > tolerated * done.patches or bad == done.patches:
        then = f"repair or fetch them again; packing stops above data.max_quarantined={tolerated:g}"
        return Finding("WRONG", "patches", text, then)
    return Finding("note", "patches", text, "packing leaves them out and lists them in quarantine.csv")


def _costs(
    record_bytes: int, refs: tuple[PatchRef, ...], seconds: float, rate: float, look: Look, packed: Path | None
) -> Iterator[Finding]:
    """Disk and minutes of packing, and where the training patches would stay."""
    needed = len(refs) * (record_bytes + _INDEX_BYTES)
    free = shutil.disk_usage(existing(look.outputs)).free
    if packed is not None:
        yield Finding("ok", "packed", f"already, in {packed}", f"check it: python -m ssl_sat.doctor pack={packed}")
    elif needed > free:
        then = "choose another disk with outputs=..., free some space, or take a part with data.max_patches=..."
        yield Finding("WRONG", "disk", f"the pack needs {gigabytes(needed)}, {gigabytes(free)} are free", then)
    else:
        records = f"{len(refs):,} records of {record_bytes:,} bytes"
        yield Finding("cost", "disk", f"the pack takes {gigabytes(needed)} of {gigabytes(free)} free ({records})")
        how = f"{rate:,.0f} patches a second and core, measured just now; slower where files were not read lately"
        yield Finding("cost", "time", f"packing takes about {duration(seconds)} ({how})")
    train = sum(ref.split == "train" for ref in refs)
    yield residency_of(train or len(refs), record_bytes, "training patches" if train else "patches")


def residency_of(patches: int, record_bytes: int, what: str) -> Finding:
    """Where training would keep that many patches, by the memory that is free now."""
    import torch

    from ssl_sat.data import residency

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = patches * record_bytes
    facts = residency.Facts(size, size, min(256, patches) * record_bytes, 4, residency.host_free(),
                            residency.device_free(device))  # fmt: skip
    chosen = residency.choose("auto", facts)
    where = {"device": "in device memory", "pinned": "in host memory", "map": "on disk, read as they are needed"}
    return Finding("cost", "memory", f"{patches:,} {what} are {gigabytes(size)}; one process would keep "
                   f"them {where[chosen.tier]} (tier {chosen.tier}: {chosen.why})")  # fmt: skip


def home(path: str) -> Path:
    """A folder as the user wrote it."""
    return Path(os.path.expanduser(path))

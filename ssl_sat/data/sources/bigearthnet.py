"""BigEarthNet-S2: what both versions share, and v1.0 (Sumbul et al. 2019). 12 bands, L2A, native resolutions.

v1: `<root>/<patch>/<patch>_B02.tif` and `<patch>_labels_metadata.json` (43 CORINE classes).
Some files end in .tiff. Names of v1 are not always zero-padded (T94033), so times come from the JSON files.
v2 is in bigearthnet_v2.py; what the lists hold, and why they add up as they do, is in docs/datasets.md.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from typing_extensions import override

from ssl_sat.data.sources.contract import (
    Facts,
    Group,
    LabelKind,
    PatchRef,
    Source,
    UnreadablePatch,
    by_fractions_or_none,
    descend,
)
from ssl_sat.data.sources.nomenclature import to_19
from ssl_sat.data.sources.tiff import read_tiff
from ssl_sat.data.spec import BigEarthNetV1Spec
from ssl_sat.data.splits import Assigned, assign_lists, digest_file, read_names
from ssl_sat.spec import MissingInput, UserError

GROUPS = (
    Group(("B02", "B03", "B04", "B08"), 120, 120, 10.0),
    Group(("B05", "B06", "B07", "B8A", "B11", "B12"), 60, 60, 20.0),
    Group(("B01", "B09"), 20, 20, 60.0),
)
OFFSET_SINCE = "2022-01-25"  # baseline 04.00 adds 1000 to digital numbers of L1C and L2A (ESA, processing baselines)
OWN_PROCESSING = "N9999"  # what Sen2Cor writes where a user runs it: it says nothing about the L1C input
LISTS_URL = (
    "https://github.com/kai-tub/bigearthnet_common/raw/2010779b6efc97eaf0f189d2cbdf8a3af75b71ba/src/bigearthnet_common"
)
DROP_LISTS = {"snow": "patches_with_seasonal_snow.csv", "cloud": "patches_with_cloud_and_shadow.csv"}
_READERS = 16  # threads that read the JSON files of v1's patches
_TILE = re.compile(r"_T(\d{2}[A-Z]{3})(?=_|$)")
_DATE = re.compile(r"_(\d{4})(\d{2})(\d{2})T\d+")
_BASELINE = re.compile(r"_(N\d{4})_")


def build_v1(spec: BigEarthNetV1Spec) -> BigEarthNetV1:
    """The source of BigEarthNet v1."""
    return BigEarthNetV1(spec)


def tile_in(name: str) -> str | None:
    """MGRS tile in a product's name, as in 33UUP."""
    found = _TILE.search(name)
    return found[1] if found else None


def baseline_in(name: str) -> str | None:
    """Processing baseline in a product's name, as in N0205."""
    found = _BASELINE.search(name)
    return found[1] if found else None


def date_in(name: str) -> str | None:
    """ISO date in a product's or a patch's name."""
    found = _DATE.search(name)
    return "-".join(found.groups()) if found else None


def baseline_offset(baseline: str | None, time: str | None) -> float:
    """Offset of the digital numbers: 0 before processing baseline 04.00, 1000 from then on.

    The baseline decides where it is ESA's: Collection-1 (N0500) holds old scenes with the offset. Otherwise the date.
    """
    if baseline is not None and baseline != OWN_PROCESSING:
        return 1000.0 if baseline >= "N0400" else 0.0
    return 1000.0 if time is not None and time[:10] >= OFFSET_SINCE else 0.0


def read_band_files(folder: str, groups: tuple[Group, ...]) -> list[np.ndarray]:
    """Read `<folder>/<name of folder>_<band>.tif[f]` as one (C_g, H_g, W_g) uint16 array per group."""
    stem = os.path.join(folder, os.path.basename(folder))
    missing: list[str] = []
    arrays = [np.empty((len(group.bands), group.height, group.width), np.uint16) for group in groups]
    for group, out_CHW in zip(groups, arrays, strict=True):
        for at, name in enumerate(group.bands):
            path = f"{stem}_{name}.tif"
            try:
                pixels = read_tiff(path)
            except UnreadablePatch:
                if os.path.lexists(path):
                    raise
                path += "f"
                if not os.path.exists(path):
                    missing.append(name)
                    continue
                pixels = read_tiff(path)
            if pixels.shape != (1, group.height, group.width) or pixels.dtype != np.uint16:
                raise UnreadablePatch(_unlike(path, pixels, group))
            out_CHW[at] = pixels[0]
    if missing:
        raise UnreadablePatch(f"{len(missing)} of 12 bands missing: {', '.join(missing)}")
    return arrays


def _unlike(path: str, pixels: np.ndarray, group: Group) -> str:
    name = os.path.basename(path)
    if pixels.shape != (1, group.height, group.width):
        return f"{name}: shape {pixels.shape}, not (1, {group.height}, {group.width})"
    return f"{name}: dtype {pixels.dtype}, not uint16"


class BigEarthNet(Source):
    """What both versions share: twelve files per patch, groups of three resolutions, filters by name."""

    @property
    @override
    def label_kind(self) -> LabelKind:
        return "multi"

    @property
    @abc.abstractmethod
    def base(self) -> Path:
        """The folder that holds the patches (v1) or the tiles (v2)."""

    @cached_property
    def prefix(self) -> str:
        """Path from the root to the base, '' or ending in a slash."""
        return "" if self.base == self.root else self.base.relative_to(self.root).as_posix() + "/"

    @cached_property
    @override
    def facts(self) -> Facts:
        refs = self.listing().refs
        offsets = {baseline_offset(ref.baseline, ref.time) for ref in refs}
        if len(offsets) > 1:
            late = next(ref.id for ref in refs if baseline_offset(ref.baseline, ref.time))
            raise UserError(
                f"{self.base}: patches from before and after {OFFSET_SINCE} (processing baseline 04.00), when the "
                f"digital numbers were raised by 1000, cannot share a pack (first late one: {late}). Pack the two "
                "separately."
            )
        baselines = tuple(sorted({ref.baseline for ref in refs if ref.baseline is not None}))
        decode: dict[str, str | int | None] = {"to_px": None, "filter": "none", "recompress": "none", "mode": "uint16"}
        basis = _basis(baselines, [ref.time for ref in refs if ref.time is not None])
        return Facts("Sentinel-2", "L2A", GROUPS, "uint16", 10000.0, offsets.pop(), decode,
                     offset_basis=basis, baselines=baselines)  # fmt: skip

    @override
    def read(self, ref: PatchRef) -> list[np.ndarray]:
        return read_band_files(os.path.join(self.root, ref.path), GROUPS)

    @override
    def choose(self, refs: list[PatchRef]) -> list[PatchRef]:
        unwanted = self.dropped()
        kept = [ref for ref in refs if ref.id not in unwanted] if unwanted else refs
        if "unlabelled" in getattr(self.spec, "drop", ()):
            kept = [ref for ref in kept if ref.labels or ref.problem is not None]
        return kept

    @abc.abstractmethod
    def dropped(self) -> Set[str]:
        """Names that `data.drop` leaves out by the published lists; MissingInput when a list is not there."""

    def metadata(self, *names: str) -> Path | None:
        """The first of the named files in metadata_dir, or else at or beside the patches."""
        return next((folder / name for folder in self._folders() for name in names if (folder / name).is_file()), None)

    def _folders(self) -> list[Path]:
        stated = getattr(self.spec, "metadata_dir", None)
        return [Path(stated).expanduser()] if stated else [self.base, self.root, self.root.parent]

    def missing(self, names: Sequence[str], urls: Sequence[str], instead: str) -> MissingInput:
        """The error for metadata files that are not there: what, where looked, the commands that fetch them."""
        looked = " or ".join(f"'{folder}'" for folder in dict.fromkeys(self._folders()))
        fetch = f"\n  get it:  python -m ssl_sat.download {self.spec.name} only=lists to={self._folders()[-1]}"
        fetch += "".join(f"\n  by hand: curl -LO {url}" for url in urls)
        return MissingInput(
            f"{self.spec.name}: no {', '.join(names)} in {looked}. Set data.metadata_dir to the folder that holds "
            f"{'it' if len(names) == 1 else 'them'}, or {instead}.{fetch}"
        )


def _basis(baselines: tuple[str, ...], times: list[str]) -> str:
    """Why the offset is what it is, in words, for the manifest."""
    if baselines and OWN_PROCESSING not in baselines:
        return f"processing baseline of the L1C products ({', '.join(baselines)}); 04.00 brought the offset"
    when = f"{min(times)[:10]} to {max(times)[:10]}" if times else "an unknown date"
    own = "; N9999 is Sen2Cor run by the publishers and does not say" if baselines else ""
    return f"acquired {when}, baseline 04.00 brought the offset on {OFFSET_SINCE}{own}"


class BigEarthNetV1(BigEarthNet):
    """BigEarthNet-S2 v1.0: 590,326 patches, multi-label (43 CORINE level-3 names, or 19).

    Patches with snow, cloud or shadow are in none of the lists of `official`; `data.drop` leaves them out elsewhere.
    Only patches that can be chosen have their JSON read.
    """

    needs = (
        "the folder of BigEarthNet-S2 v1.0 that holds one folder per patch (BigEarthNet-v1.0/, 66 GB packed, "
        "Zenodo record 12687186)"
    )
    obtain = "curl -L https://zenodo.org/records/12687186/files/BigEarthNet-S2-v1.0.tar.gz | tar xz"
    spec: BigEarthNetV1Spec

    @cached_property
    @override
    def base(self) -> Path:
        return descend(self.root, "BigEarthNet-v1.0")

    @override
    def inventory(self) -> list[tuple[str, int]]:
        with os.scandir(self.base) as entries:
            return [(entry.name, 0) for entry in entries if entry.is_dir() and _DATE.search(entry.name)]

    @override
    def find(self) -> list[PatchRef]:
        listed = set().union(*self._names.values()) if self.spec.split == "official" else None
        unwanted = self.dropped()

        def refs(names: list[str]) -> list[PatchRef]:
            wanted = ((listed is None or name in listed) and name not in unwanted for name in names)
            return [self._ref(name) if ask else self._bare(name) for name, ask in zip(names, wanted, strict=True)]

        names = [name for name, _ in self.inventory()]
        some = [names[first : first + 64] for first in range(0, len(names), 64)]
        with ThreadPoolExecutor(_READERS) as threads:  # a file each: a cold disk is asked for many at a time
            return list(itertools.chain.from_iterable(threads.map(refs, some)))

    def _bare(self, name: str) -> PatchRef:
        return PatchRef(name, self.prefix + name, time=date_in(name))

    def _ref(self, name: str) -> PatchRef:
        return with_json(self._bare(name), f"{self.base}/{name}/{name}_labels_metadata.json", self.labels_of)

    def labels_of(self, names: list[str]) -> tuple[str, ...]:
        """The labels of a patch, from the names in its JSON file."""
        return tuple(sorted(names)) if self.spec.labels == 43 else to_19(names)

    @override
    def split_files(self) -> dict[str, Path]:
        lists = list(self._lists.values()) if self.spec.split == "official" else []
        return {path.name: path for path in [*lists, *self._drop_lists.values()]}

    @cached_property
    def _lists(self) -> dict[str, Path]:
        return self._found({split: f"{split}.csv" for split in ("train", "val", "test")}, "data.split=fractions")

    @cached_property
    def _drop_lists(self) -> dict[str, Path]:
        asked = [kind for kind in DROP_LISTS if kind in getattr(self.spec, "drop", ())]
        return self._found({kind: DROP_LISTS[kind] for kind in asked}, "leave it out of data.drop")

    def _found(self, names: dict[str, str], instead: str) -> dict[str, Path]:
        paths = {key: self.metadata(name, f"{name}.bz2") for key, name in names.items()}
        missing = [names[key] for key, path in paths.items() if path is None]
        if missing:
            urls = [f"{LISTS_URL}/{name}.bz2" for name in missing]
            raise self.missing([f"{name}[.bz2]" for name in missing], urls, instead)
        return {key: path for key, path in paths.items() if path is not None}

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return {split: read_names(path) for split, path in self._lists.items()}

    @cached_property
    def _unwanted(self) -> Set[str]:
        return frozenset(name for path in self._drop_lists.values() for name in read_names(path))

    @override
    def dropped(self) -> Set[str]:
        return self._unwanted

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        files = {path.name: path for path in self._drop_lists.values()}
        if self.spec.split != "official":
            done = by_fractions_or_none(self.spec, self.spec.split, refs)
            return dataclasses.replace(done, files={name: digest_file(path) for name, path in files.items()})
        both = sorted(name for names in self._names.values() for name in names if name in self.dropped())
        if both:
            raise UserError(
                f"bigearthnet_v1: {len(both)} patches are in an official split and in a list of data.drop="
                f"[{','.join(self.spec.drop)}], the first: {both[0]}. The published lists share none: {LISTS_URL}"
            )
        return assign_lists(self._names, (ref.id for ref in refs), self._lists | files, self.spec.allow_absent)


def with_json(ref: PatchRef, path: str, labels_of: Callable[[list[str]], tuple[str, ...]]) -> PatchRef:
    """`ref` with labels, tile, time and baseline of its `*_labels_metadata.json`, or with the problem it has."""
    file = path.rpartition("/")[2]
    try:
        with open(path, encoding="utf-8") as opened:
            facts = json.load(opened)
        labels = labels_of([str(label) for label in facts["labels"]])
        product = str(facts.get("tile_source", ""))
        time = str(facts.get("acquisition_date", "")).replace(" ", "T") or ref.time
    except FileNotFoundError:
        return dataclasses.replace(ref, problem=f"{file}: missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return dataclasses.replace(ref, problem=f"{file}: {type(error).__name__}: {error}")
    return dataclasses.replace(ref, labels=labels, place=tile_in(product), time=time, baseline=baseline_in(product))

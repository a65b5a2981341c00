"""BigEarthNet-S2: v1.0 (Sumbul et al. 2019) and v2.0 / reBEN (Clasen et al. 2024). 12 bands, L2A, native resolutions.

v1: `<root>/<patch>/<patch>_B02.tif` and `<patch>_labels_metadata.json` (43 CORINE classes).
v2: `<root>/BigEarthNet-S2/<tile>/<patch>/<patch>_B02.tif`, labels (19 classes) in metadata.parquet.
Some files end in .tiff. Names of v1 are not always zero-padded (T94033), so times come from the JSON files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

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
from ssl_sat.data.sources.tiff import read_tiff
from ssl_sat.data.spec import BigEarthNetV1Spec, BigEarthNetV2Spec
from ssl_sat.data.splits import Assigned, assign_lists, canonical, read_names
from ssl_sat.spec import MissingInput, UserError

GROUPS = (
    Group(("B02", "B03", "B04", "B08"), 120, 120, 10.0),
    Group(("B05", "B06", "B07", "B8A", "B11", "B12"), 60, 60, 20.0),
    Group(("B01", "B09"), 20, 20, 60.0),
)
OFFSET_SINCE = "2022-01-25"  # processing baseline 04.00 adds 1000 to L2A digital numbers (ESA, S2 MSI product notes)
_TILE = re.compile(r"_T(\d{2}[A-Z]{3})(?=_|$)")
_DATE = re.compile(r"_(\d{4})(\d{2})(\d{2})T\d+")


def build_v1(spec: BigEarthNetV1Spec) -> BigEarthNetV1:
    """The source of BigEarthNet v1."""
    return BigEarthNetV1(spec)


def build_v2(spec: BigEarthNetV2Spec) -> BigEarthNetV2:
    """The source of BigEarthNet v2."""
    return BigEarthNetV2(spec)


def baseline_offset(time: str | None) -> float:
    """Offset of the digital numbers for an ISO date: 0 before processing baseline 04.00, 1000 from then on."""
    return 1000.0 if time is not None and time[:10] >= OFFSET_SINCE else 0.0


def read_band_files(folder: str, groups: tuple[Group, ...]) -> list[np.ndarray]:
    """Read `<folder>/<name of folder>_<band>.tif[f]` as one (C_g, H_g, W_g) uint16 array per group."""
    stem = os.path.join(folder, os.path.basename(folder))
    missing: list[str] = []
    arrays = [np.empty((len(group.bands), group.height, group.width), np.uint16) for group in groups]
    for group, out_CHW in zip(groups, arrays, strict=True):
        for at, name in enumerate(group.bands):
            path = next((p for p in (f"{stem}_{name}.tif", f"{stem}_{name}.tiff") if os.path.exists(p)), None)
            if path is None:
                missing.append(name)
            else:
                out_CHW[at] = _one_band(path, group)
    if missing:
        raise UnreadablePatch(f"{len(missing)} of 12 bands missing: {', '.join(missing)}")
    return arrays


def _one_band(path: str, group: Group) -> np.ndarray:
    pixels = read_tiff(path)
    if pixels.shape != (1, group.height, group.width):
        raise UnreadablePatch(f"{os.path.basename(path)}: shape {pixels.shape}, not (1, {group.height}, {group.width})")
    if pixels.dtype != np.uint16:
        raise UnreadablePatch(f"{os.path.basename(path)}: dtype {pixels.dtype}, not uint16")
    return pixels[0]


class _BigEarthNet(Source):
    """What both versions share: twelve files per patch, groups of three resolutions."""

    @property
    @override
    def label_kind(self) -> LabelKind:
        return "multi"

    @property
    def base(self) -> Path:
        """The folder that holds the patches (v1) or the tiles (v2)."""
        raise NotImplementedError

    @cached_property
    def prefix(self) -> str:
        """Path from the root to the base, '' or ending in a slash."""
        return "" if self.base == self.root else self.base.relative_to(self.root).as_posix() + "/"

    @cached_property
    @override
    def facts(self) -> Facts:
        offsets = {baseline_offset(ref.time) for ref in self.found}
        if len(offsets) > 1:
            late = next(ref.id for ref in self.found if baseline_offset(ref.time))
            raise UserError(
                f"{self.base}: patches from before and after {OFFSET_SINCE}, when the digital numbers were raised by "
                f"1000, cannot share a pack (first late one: {late}). Pack the two periods separately."
            )
        decode: dict[str, str | int | None] = {"to_px": None, "filter": "none", "recompress": "none", "mode": "uint16"}
        return Facts("Sentinel-2", "L2A", GROUPS, "uint16", 10000.0, offsets.pop(), decode)

    def read(self, ref: PatchRef) -> list[np.ndarray]:
        return read_band_files(os.path.join(self.root, ref.path), GROUPS)

    def metadata(self, *names: str) -> Path | None:
        """The first of the named files in metadata_dir, or else at or beside the patches."""
        stated = getattr(self.spec, "metadata_dir", None)
        folders = [Path(stated).expanduser()] if stated else [self.base, self.root, self.root.parent]
        return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


class BigEarthNetV1(_BigEarthNet):
    """BigEarthNet-S2 v1.0: 590,326 patches, multi-label (43 CORINE level-3 names).

    Patches with snow, cloud or shadow are left out by the lists of `official`; the other schemes keep them.
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
        return [self._ref(name) for name, _ in self.inventory()]

    def _ref(self, name: str) -> PatchRef:
        ref = PatchRef(name, self.prefix + name, time=_date_of(name))
        try:
            with open(f"{self.base}/{name}/{name}_labels_metadata.json", encoding="utf-8") as file:
                facts = json.load(file)
            labels = self.labels_of([str(label) for label in facts["labels"]])
            tile = _TILE.search(str(facts.get("tile_source", "")))
            time = str(facts.get("acquisition_date", "")).replace(" ", "T") or ref.time
        except FileNotFoundError:
            return dataclasses.replace(ref, problem=f"{name}_labels_metadata.json: missing")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            return dataclasses.replace(ref, problem=f"{name}_labels_metadata.json: {type(error).__name__}: {error}")
        return dataclasses.replace(ref, labels=labels, place=tile[1] if tile else None, time=time)

    def labels_of(self, names: list[str]) -> tuple[str, ...]:
        """The labels of a patch, from the names in its JSON file."""
        return tuple(sorted(names))

    @override
    def split_files(self) -> dict[str, Path]:
        return {path.name: path for path in self._lists().values()} if self.spec.split == "official" else {}

    def _lists(self) -> dict[str, Path]:
        lists = {split: self.metadata(f"{split}.csv", f"{split}.csv.bz2") for split in ("train", "val", "test")}
        missing = [split for split, path in lists.items() if path is None]
        if missing:
            raise MissingInput(
                f"bigearthnet_v1: no {', '.join(f'{split}.csv[.bz2]' for split in missing)} in "
                f"'{self.spec.metadata_dir or self.base}'. The official lists are in the repository "
                "BigEarthNet-19_models (splits/); set data.metadata_dir to their folder, or data.split=fractions."
            )
        return {split: path for split, path in lists.items() if path is not None}

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        if self.spec.split != "official":
            return by_fractions_or_none(self.spec, self.spec.split, refs)
        lists = self._lists()
        names = {split: read_names(path) for split, path in lists.items()}
        return assign_lists(names, (ref.id for ref in refs), lists, self.spec.allow_absent)


class BigEarthNetV2(_BigEarthNet):
    """BigEarthNet v2.0: patches below tiles; labels and splits from metadata.parquet (none without it).

    Patches that the table does not name (snow, cloud, shadow) are left out by `official` and unlabelled otherwise.
    """

    needs = "the folder of BigEarthNet v2.0 that holds BigEarthNet-S2/<tile>/<patch>/ (63 GB packed, Zenodo 10891137)"
    obtain = (
        "curl -L https://zenodo.org/records/10891137/files/BigEarthNet-S2.tar.zst | tar x --zstd && "
        "curl -LO https://zenodo.org/records/10891137/files/metadata.parquet"
    )
    spec: BigEarthNetV2Spec

    @property
    @override
    def label_kind(self) -> LabelKind:
        return "multi" if self.table is not None else "none"

    @cached_property
    @override
    def base(self) -> Path:
        return descend(self.root, "BigEarthNet-S2")

    @cached_property
    def table(self) -> Path | None:
        """metadata.parquet; MissingInput when the split needs it and it is not there."""
        path = self.metadata("metadata.parquet")
        if path is None and self.spec.split == "official":
            raise MissingInput(
                f"bigearthnet_v2: no metadata.parquet in '{self.spec.metadata_dir or self.base}'. It comes with the "
                "data set (Zenodo record 10891137); set data.metadata_dir to its folder, or data.split=fractions."
            )
        return path

    @override
    def inventory(self) -> list[tuple[str, int]]:
        return [(os.path.basename(path), 0) for path in self._folders()]

    def _folders(self) -> list[str]:
        found = []
        for tile in os.scandir(self.base):
            if tile.is_dir() and _DATE.search(tile.name):
                found += [f"{tile.name}/{patch.name}" for patch in os.scandir(tile.path) if patch.is_dir()]
        return found

    @override
    def find(self) -> list[PatchRef]:
        labels_of = {row["patch_id"]: tuple(sorted(row["labels"])) for row in self._rows}
        refs = []
        for folder in self._folders():
            name = os.path.basename(folder)
            tile = _TILE.search(folder.partition("/")[0])
            place = tile[1] if tile else None
            refs.append(PatchRef(name, self.prefix + folder, "", labels_of.get(name, ()), place, _date_of(name)))
        return refs

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        if self.table is None:
            return []
        import pyarrow.parquet as pq

        columns = ["patch_id", "labels", "split"]
        try:
            return pq.read_table(self.table, columns=columns).to_pylist()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.table}: columns {', '.join(columns)} are needed; {error}") from None

    @override
    def split_files(self) -> dict[str, Path]:
        return {} if self.table is None else {self.table.name: self.table}

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        if self.spec.split != "official" or self.table is None:
            return by_fractions_or_none(self.spec, self.spec.split, refs)
        names: dict[str, list[str]] = {}
        for row in self._rows:
            names.setdefault(canonical(row["split"]), []).append(row["patch_id"])
        return assign_lists(names, (ref.id for ref in refs), {"metadata": self.table}, self.spec.allow_absent)


def _date_of(name: str) -> str | None:
    found = _DATE.search(name)
    return "-".join(found.groups()) if found else None

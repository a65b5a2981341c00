"""A folder of multi-band GeoTIFF patches whose bands the user states; reads GEO-Bench-2 and EuroSAT layouts.

With `labels=meta` each patch has a meta.json in its folder (GEO-Bench-2's benv2): `patch_id`, `labels`,
`tortilla:data_split`. Where the georeferencing in a file and the stated `gsd_m` disagree, the statement counts:
benv2's files say 60 m for bands that were resampled to 10 m.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from typing_extensions import override

from ssl_sat.data.sources.arrays import ArraySource
from ssl_sat.data.sources.contract import LabelKind, PatchRef
from ssl_sat.data.sources.tiff import read_tiff
from ssl_sat.data.spec import GeoTiffSpec
from ssl_sat.data.splits import Assigned, assign_folders, canonical

_TILE = re.compile(r"_T(\d{2}[A-Z]{3})(?=_|$)")


def build(spec: GeoTiffSpec) -> GeoTiff:
    """The source of a folder of GeoTIFFs."""
    return GeoTiff(spec)


class GeoTiff(ArraySource):
    """Every .tif or .tiff below the root is one patch with all its bands."""

    needs = "a folder of multi-band GeoTIFF patches"
    suffixes = (".tif", ".tiff")
    spec: GeoTiffSpec

    @property
    @override
    def label_kind(self) -> LabelKind:
        return "multi" if self.spec.labels == "meta" else super().label_kind

    @override
    def load(self, path: str) -> np.ndarray:
        return read_tiff(path)

    @override
    def find(self) -> list[PatchRef]:
        refs = super().find()
        if self.spec.labels != "meta":
            return refs
        return [self._with_meta(ref) for ref in refs]

    def _with_meta(self, ref: PatchRef) -> PatchRef:
        path = (self.root / ref.path).parent / "meta.json"
        try:
            meta = json.loads(path.read_text())
            name = str(meta["patch_id"])
            labels = tuple(sorted(str(label) for label in meta["labels"]))
            seconds = meta.get("stac:time_start")
            time = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()[:19]
        except FileNotFoundError:
            return dataclasses.replace(ref, problem="meta.json: missing")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return dataclasses.replace(ref, problem=f"meta.json: {type(error).__name__}: {error}")
        tile, split = _TILE.search(name), canonical(str(meta.get("tortilla:data_split", "")))
        return PatchRef(name, ref.path, split, labels, tile[1] if tile else None, time)

    @override
    def split_files(self) -> dict[str, Path]:
        found = self.root.rglob("meta.json") if self.spec.labels == "meta" else ()
        return {path.relative_to(self.root).as_posix(): path for path in found}

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        if self.spec.split != "meta":
            return super().assign(refs)
        # a patch whose meta.json is broken is on its way to quarantine; any split carries it there
        return assign_folders({ref.id: ref.split or ("train" if ref.problem else "") for ref in refs}, self.root)

    @override
    def class_names(self, refs: Iterable[PatchRef]) -> tuple[str, ...]:
        return tuple(sorted({name for ref in refs for name in ref.labels}))

"""EuroSAT (Helber et al. 2019): 27,000 patches of 64 px at 10 m, 10 classes; RGB JPEGs and 13-band L1C GeoTIFFs.

The published lists (random and spatial, 16,200 / 5,400 / 5,400; Neumann et al. 2019, and torchgeo) name `.jpg` files;
they hold for the 13-band files of the same names. The bands of a GeoTIFF are B01..B12 with B8A last.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np
from typing_extensions import override

from ssl_sat.data.sources.bigearthnet import OFFSET_SINCE
from ssl_sat.data.sources.contract import Facts, Group, PatchRef, UnreadablePatch, by_fractions_or_none, descend
from ssl_sat.data.sources.folders import FolderSource
from ssl_sat.data.sources.images import ImageSource
from ssl_sat.data.sources.tiff import read_tiff
from ssl_sat.data.spec import EurosatMsSpec, EurosatRgbSpec
from ssl_sat.data.splits import Assigned, assign_lists, read_names
from ssl_sat.spec import MissingInput

MS_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
MS_GROUP = Group(MS_BANDS, 64, 64, 10.0)
_PREFIX = {"random": "eurosat", "spatial": "eurosat-spatial"}


def build_rgb(spec: EurosatRgbSpec) -> EurosatRgb:
    """The source of EuroSAT RGB."""
    return EurosatRgb(spec)


def build_ms(spec: EurosatMsSpec) -> EurosatMs:
    """The source of EuroSAT with 13 bands."""
    return EurosatMs(spec)


LISTS = "https://hf.co/datasets/torchgeo/eurosat/resolve/main"


class _Published(FolderSource):
    """The published lists, shared by both forms of the data set."""

    names_are_ids = True
    spec: EurosatRgbSpec | EurosatMsSpec

    def _lists(self) -> dict[str, Path]:
        stated, root = self.spec.splits_dir, self.root
        folders = (
            [Path(stated).expanduser()] if stated else [root, root / "eurosat_splits", root.parent / "eurosat_splits"]
        )
        names = {split: f"{_PREFIX[self.spec.split]}-{split}.txt" for split in ("train", "val", "test")}
        for folder in folders:
            if all((folder / name).is_file() for name in names.values()):
                return {split: folder / name for split, name in names.items()}
        raise MissingInput(
            f"{self.spec.name}: no {', '.join(names.values())} in {' or '.join(map(repr, map(str, folders)))}. "
            "Set data.splits_dir to their folder, or choose data.split=fractions.\n  get them: "
            f"python -m ssl_sat.download {self.spec.name} only=lists to={root.parent}\n  by hand:  "
            f"for s in {' '.join(names.values())}; do curl -LO {LISTS}/$s; done"
        )

    def split_files(self) -> dict[str, Path]:
        return {path.name: path for path in self._lists().values()} if self.spec.split in _PREFIX else {}

    def assign(self, refs: list[PatchRef]) -> Assigned:
        if self.spec.split not in _PREFIX:
            return by_fractions_or_none(self.spec, self.spec.split, refs)
        lists = self._lists()
        names = {split: [os.path.splitext(name)[0] for name in read_names(path)] for split, path in lists.items()}
        return assign_lists(names, (ref.id for ref in refs), lists, self.spec.allow_absent)


class EurosatRgb(_Published, ImageSource):
    """`<Class>/<Class>_N.jpg`. Display values; L1C reflectance stretched by the authors, not reflectance."""

    needs = "the unpacked EuroSAT RGB folder with one folder per class (EuroSAT_RGB.zip, Zenodo record 7711810)"
    obtain = "curl -LO https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip && unzip EuroSAT_RGB.zip"
    suffixes = (".jpg", ".jpeg")
    sensor, bands, native_px, native_gsd_m, fixed_size = "Sentinel-2", ("B04", "B03", "B02"), 64, 10.0, True
    spec: EurosatRgbSpec

    @cached_property
    @override
    def base(self) -> Path:
        return descend(self.root, "EuroSAT_RGB")


class EurosatMs(_Published):
    """`<Class>/<Class>_N.tif`, (13, 64, 64) uint16, all bands resampled to 10 m by the authors."""

    needs = "the unpacked EuroSAT_MS folder with one folder per class (EuroSAT_MS.zip, Zenodo record 7711810)"
    obtain = "curl -LO https://zenodo.org/records/7711810/files/EuroSAT_MS.zip && unzip EuroSAT_MS.zip"
    suffixes = (".tif", ".tiff")
    spec: EurosatMsSpec

    @cached_property
    @override
    def base(self) -> Path:
        return descend(self.root, "EuroSAT_MS")

    @cached_property
    @override
    def facts(self) -> Facts:
        decode: dict[str, str | int | None] = {"to_px": None, "filter": "none", "recompress": "none", "mode": "uint16"}
        basis = f"described in 2017 (arXiv:1709.00029); baseline 04.00 brought the offset on {OFFSET_SINCE}"
        return Facts("Sentinel-2", "L1C", (MS_GROUP,), "uint16", 10000.0, 0.0, decode, offset_basis=basis)

    @override
    def read(self, ref: PatchRef) -> list[np.ndarray]:
        pixels = read_tiff(os.path.join(self.root, ref.path))
        if pixels.shape != (13, 64, 64) or pixels.dtype != np.uint16:
            raise UnreadablePatch(f"{pixels.dtype} {pixels.shape}, not uint16 (13, 64, 64)")
        return [pixels]

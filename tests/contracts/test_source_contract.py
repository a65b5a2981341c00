"""Every source of the registry: a fake in the real layout, packed, and compared with a reading by other means.

The other means are rasterio, Pillow and numpy directly: nothing of ssl_sat reads the expected pixels.
"""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fakes import bigearthnet, eurosat, folders
from PIL import Image

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import source_digest, write_pack

GROUPS_S2 = (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"), ("B01", "B09"))


@dataclass
class Case:
    """A fake: its config, which ids are in which split, label names by id, and a file that `damage` may cut."""

    config: dict[str, Any]
    splits: dict[str, list[str]] | None
    labels: dict[str, tuple[str, ...]]
    pixels: Callable[[str], list[np.ndarray]]  # id -> one array per group
    a_file: Callable[[str], Path]


def band_files(folder: Path) -> list[np.ndarray]:
    def one(band: str) -> np.ndarray:
        (path,) = folder.glob(f"*_{band}.tif*")
        with rasterio.open(path) as raster:
            return raster.read(1)

    return [np.stack([one(band) for band in group]) for group in GROUPS_S2]


def raster(path: Path) -> list[np.ndarray]:
    with rasterio.open(path) as file:
        return [file.read()]


def image(path: Path, px: int) -> list[np.ndarray]:
    resized = Image.open(path).convert("RGB").resize((px, px), Image.Resampling.BILINEAR)
    return [np.moveaxis(np.asarray(resized), -1, 0)]


def only(paths: Any) -> Path:
    (path,) = paths
    return path


def bigearthnet_v1(root: Path) -> Case:
    splits = bigearthnet.write_v1(root / "BigEarthNet-v1.0", root / "lists")
    labels = {n: tuple(names) for n, names in zip(bigearthnet.V1_NAMES, bigearthnet.V1_LABELS, strict=True)}
    base = root / "BigEarthNet-v1.0"
    config = {"root": str(root), "metadata_dir": str(root / "lists")}
    return Case(config, splits, labels, lambda n: band_files(base / n), lambda n: base / n / f"{n}_B03.tif")


def bigearthnet_v2(root: Path) -> Case:
    splits = bigearthnet.write_v2(root)
    labels = {n: tuple(names) for n, names in zip(bigearthnet.V2_NAMES, bigearthnet.V2_LABELS, strict=True)}

    def folder(name: str) -> Path:
        return root / "BigEarthNet-S2" / name.rsplit("_", 2)[0] / name

    return Case({"root": str(root)}, splits, labels, lambda n: band_files(folder(n)),
                lambda n: only(folder(n).glob("*_B11.tif*")))  # fmt: skip


def eurosat_rgb(root: Path) -> Case:
    eurosat.write_rgb(root / "EuroSAT_RGB")
    splits = eurosat.write_lists(root / "eurosat_splits", "spatial")

    def path(name: str) -> Path:
        return root / "EuroSAT_RGB" / name.split("_")[0] / f"{name}.jpg"

    labels = {name: (name.split("_")[0],) for name in eurosat.names()}
    config = {"root": str(root / "EuroSAT_RGB"), "split": "spatial"}
    return Case(config, splits, labels, lambda n: image(path(n), 64), path)


def eurosat_ms(root: Path) -> Case:
    eurosat.write_ms(root / "EuroSAT_MS")
    splits = eurosat.write_lists(root / "lists")

    def path(name: str) -> Path:
        return root / "EuroSAT_MS" / name.split("_")[0] / f"{name}.tif"

    labels = {name: (name.split("_")[0],) for name in eurosat.names()}
    config = {"root": str(root), "splits_dir": str(root / "lists")}
    return Case(config, splits, labels, lambda n: raster(path(n)), path)


def ucmerced(root: Path) -> Case:
    folders.write_ucmerced(root)
    names = [f"{cls}{number:02d}" for cls in folders.UCMERCED_CLASSES for number in range(3)]

    def path(name: str) -> Path:
        return root / "UCMerced_LandUse" / "Images" / name[:-2] / f"{name}.tif"

    labels = {name: (name[:-2],) for name in names}
    return Case({"root": str(root)}, {"test": names}, labels, lambda n: image(path(n), 64), path)


def imagefolder(root: Path) -> Case:
    folders.write_images(root, split_folders=True)
    names = [
        f"{split}/{cls}/{n:04d}" for split in ("train", "val", "test") for cls in ("barn", "quay") for n in range(4)
    ]

    def path(name: str) -> Path:
        return only((root / name).parent.glob(f"{name[-4:]}.*"))

    splits = {split: [name for name in names if name.startswith(split)] for split in ("train", "val", "test")}
    labels = {name: (name.split("/")[1],) for name in names}
    config = {"root": str(root), "split": "folders", "size_px": 48}
    return Case(config, splits, labels, lambda n: image(path(n), 48), path)


def npy(root: Path) -> Case:
    folders.write_npy(root)
    names = [f"test_{number}" for number in range(6)]
    return Case({"root": str(root)}, {"train": names}, {name: () for name in names},
                lambda n: [np.moveaxis(np.load(root / f"{n}.npy"), -1, 0)], lambda n: root / f"{n}.npy")  # fmt: skip


def geotiff(root: Path) -> Case:
    splits = folders.write_benv2(root)
    labels = {name: tuple(labels) for name, (_, labels) in folders.BENV2.items()}
    config = {"root": str(root), "split": "meta", "labels": "meta", "gsd_m": 10.0}
    return Case(config, splits, labels, lambda n: raster(root / n / "s2.tif"), lambda n: root / n / "s2.tif")


def scenes(root: Path) -> Case:
    config = {"root": str(root / "s"), "patches_per_class": 2, "classes": ["water", "cloud"], "split": "none"}
    write_pack(SOURCES.parse({"name": "scenes", **config}), root / "first")
    names = sorted(path.name for path in (root / "s").iterdir() if path.is_dir())
    first_label = r'"labels": ["'
    labels = {}
    for name in names:
        text = (root / "s" / name / f"{name}_labels_metadata.json").read_text()
        labels[name] = (text.split(first_label)[1].split('"')[0],)
    return Case(config, {"train": names}, labels, lambda n: band_files(root / "s" / n),
                lambda n: root / "s" / n / f"{n}_B8A.tif")  # fmt: skip


MAKERS = (bigearthnet_v1, bigearthnet_v2, eurosat_rgb, eurosat_ms, ucmerced, imagefolder, npy, geotiff, scenes)
CASES = {make.__name__: make for make in MAKERS}


def test_every_source_has_a_fake() -> None:
    assert sorted(CASES) == SOURCES.names()


@pytest.fixture(params=SOURCES.names(), scope="module")
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Pack, Any]:
    root = tmp_path_factory.mktemp(request.param)
    case = CASES[request.param](root / "data")
    spec = SOURCES.parse({"name": request.param, **case.config})
    write_pack(spec, root / "pack")
    return case, Pack.open(root / "pack"), spec


def test_pixels_are_those_of_the_files(packed: tuple[Case, Pack, Any]) -> None:
    case, pack, _ = packed
    arrays = pack.read(np.arange(len(pack)))
    assert sorted(pack.ids) == sorted(case.labels)
    for row, name in enumerate(pack.ids):
        for got, want in zip(arrays, case.pixels(name), strict=True):
            np.testing.assert_array_equal(got[row], want)
            assert got.dtype == want.dtype


def test_splits_and_labels(packed: tuple[Case, Pack, Any]) -> None:
    case, pack, _ = packed
    assert case.splits is not None
    assert {split: sorted(pack.ids[row] for row in pack.rows(split)) for split in pack.splits} == {
        split: sorted(names) for split, names in case.splits.items()
    }
    assert pack.classes == tuple(sorted({name for labels in case.labels.values() for name in labels}))
    for row, name in enumerate(pack.ids):
        if pack.manifest.label_kind == "multi":
            got = {cls for cls, present in zip(pack.classes, pack.labels[row], strict=True) if present == 1.0}
            assert got == set(case.labels[name])
        elif pack.manifest.label_kind == "single":
            assert (pack.classes[pack.labels[row]],) == case.labels[name]
        else:
            assert pack.labels[row] == -1


def test_rows_are_sorted_by_split_then_id(packed: tuple[Case, Pack, Any]) -> None:
    _, pack, _ = packed
    order = {"train": 0, "val": 1, "test": 2}
    keys = [(order[split], name) for split, name in zip(pack.index["split"], pack.ids, strict=True)]
    assert keys == sorted(keys)


def test_manifest_agrees_with_the_spec_and_only_scenes_are_synthetic(packed: tuple[Case, Pack, Any]) -> None:
    _, pack, spec = packed
    manifest = pack.manifest
    assert manifest.source == spec.name and manifest.synthetic == (spec.name == "scenes")
    assert manifest.bands == [name for group in manifest.groups for name in group.bands]
    assert manifest.record_bytes == sum(np.prod(g.shape) for g in manifest.groups) * np.dtype(manifest.dtype).itemsize
    assert (manifest.level == "display") == (manifest.scale == 255.0)


class _Reversed(list):
    def __enter__(self) -> "_Reversed":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_folder_order_does_not_matter(
    packed: tuple[Case, Pack, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pack, spec = packed
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": _Reversed(sorted(scandir(path), key=lambda e: e.name)[::-1]))
    backwards = write_pack(spec, tmp_path / "backwards")
    monkeypatch.setattr(os, "scandir", lambda path=".": _Reversed(sorted(scandir(path), key=lambda e: e.name)))
    assert backwards == write_pack(spec, tmp_path / "forwards")
    monkeypatch.undo()
    for name in ("patches.bin", "manifest.json", "stats.json", "index.parquet", "quarantine.csv"):
        assert (tmp_path / "backwards" / name).read_bytes() == (tmp_path / "forwards" / name).read_bytes()
        assert (tmp_path / "backwards" / name).read_bytes() == (pack.folder / name).read_bytes()


def test_a_cut_file_is_quarantined_and_the_rest_is_untouched(request: pytest.FixtureRequest, tmp_path: Path,
                                                             packed: tuple[Case, Pack, Any]) -> None:  # fmt: skip
    name = packed[2].name
    case = CASES[name](tmp_path / "data")
    spec = SOURCES.parse({"name": name, **case.config, "max_quarantined": 0.9})
    before = source_digest(spec)
    assert before == source_digest(spec)
    victim = sorted(case.labels)[-1]
    path = case.a_file(victim)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    metrics = write_pack(spec, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    assert metrics["quarantined"] == pack.manifest.quarantined == 1
    assert sorted(pack.ids) == sorted(set(case.labels) - {victim})
    arrays = pack.read(np.arange(len(pack)))
    for row, kept in enumerate(pack.ids):
        for got, want in zip(arrays, case.pixels(kept), strict=True):
            np.testing.assert_array_equal(got[row], want)
    with open(tmp_path / "pack" / "quarantine.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["id"] == victim and line["path"] and line["reason"]
    if name in ("eurosat_rgb", "eurosat_ms", "ucmerced", "imagefolder", "npy", "geotiff"):
        assert source_digest(spec) != before  # sizes of single-file patches are part of it

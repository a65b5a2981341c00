"""The readers on real data, where there is some: in the folder of env SSL_SAT_REAL_DATA, else ../shared/data."""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack
from ssl_sat.data.pixel_facts import doubts
from ssl_sat.data.sources.contract import Facts
from ssl_sat.data.sources.eurosat import MS_BANDS, MS_GROUP
from ssl_sat.data.splits import read_names
from ssl_sat.data.statistics import BandHistograms

REAL = Path(os.environ.get("SSL_SAT_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = [
    pytest.mark.skipif(not (REAL / "EuroSAT_RGB.zip").is_file(), reason=f"no real data in {REAL}"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
assert NotGeoreferencedWarning is not None
COARSE = (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"), ("B01", "B09"))


@pytest.fixture(scope="session")
def unzipped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Unpack (a part of) an archive once; return its folder."""
    done: dict[str, Path] = {}

    def unzip(name: str, some: str = "") -> Path:
        if name not in done:
            done[name] = tmp_path_factory.mktemp(name)
            with zipfile.ZipFile(REAL / f"{name}.zip") as archive:
                archive.extractall(done[name], [member for member in archive.namelist() if some in member])
        return done[name]

    return unzip


def pack(tmp_path: Path, **config: Any) -> Pack:
    write_pack(SOURCES.parse(config), tmp_path / "pack")
    return Pack.open(tmp_path / "pack")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read()


@pytest.mark.parametrize("version", ["1", "2"])
def test_bigearthnet_equals_rasterio(version: str, unzipped: Any, tmp_path: Path) -> None:
    root = unzipped(f"BigEarthNet-v{version}.0_sample")
    base = next(path for path in root.rglob(f"BigEarthNet-{'v1.0' if version == '1' else 'S2'}"))
    metadata = str(REAL / "bigearthnet_metadata")
    p = pack(tmp_path, name=f"bigearthnet_v{version}", root=str(base), metadata_dir=metadata, allow_absent=True)
    known = {"1": (13, 519_271, 1), "2": (3, 480_035, 0)}[version]
    assert (len(p), p.manifest.absent, p.manifest.unlisted) == known
    assert p.manifest.quarantined == 0 and p.manifest.record_bytes == 160_000
    arrays = p.read(np.arange(len(p)))
    for row, path in enumerate(p.index["path"]):
        for group, bands in zip(arrays, COARSE, strict=True):
            for channel, band in enumerate(bands):
                (file,) = (base / path).glob(f"*_{band}.tif*")
                np.testing.assert_array_equal(group[row, channel], read(file)[0])
    assert set(map(len, p.index["place"])) == {5} and all(time[:2] == "20" for time in p.index["time"])
    assert p.manifest.baselines == {"1": ["N0205", "N0206"], "2": ["N9999"]}[version]
    assert p.manifest.doubts == [] and p.manifest.offset == 0.0
    # digital numbers near 0 in both: reBEN's own processing added no offset (docs/datasets.md)
    assert min(group.min() for group in arrays) < 50
    if version == "2":
        assert p.index["country"] == ["Austria", "Austria", "Finland"]


def test_eurosat_ms_equals_rasterio_and_has_its_bands_in_the_authors_order(unzipped: Any, tmp_path: Path) -> None:
    root = unzipped("EuroSAT_MS_sample")
    lists = str(REAL / "eurosat_splits")
    p = pack(tmp_path, name="eurosat_ms", root=str(next(root.rglob("EuroSAT_MS"))), splits_dir=lists, split="spatial",
             allow_absent=True)  # fmt: skip
    assert len(p) == 270 and p.manifest.absent == 26_730 and len(p.classes) == 10
    (pixels,) = p.read(np.arange(len(p)))
    for row in range(0, 270, 7):
        np.testing.assert_array_equal(pixels[row], read(next(root.rglob(f"{p.ids[row]}.tif"))))
    mean = dict(zip(p.bands, pixels.mean(axis=(0, 2, 3)), strict=True))
    # B8A lies between B08 and B09 in wavelength and near B08 in value; B10 sees cirrus only and is darkest by far
    assert p.bands[-1] == "B8A" and abs(mean["B8A"] / mean["B08"] - 1) < 0.2
    assert mean["B10"] < 0.1 * min(value for name, value in mean.items() if name != "B10")


def test_pixels_of_eurosat_ms_agree_with_its_facts_and_with_no_others(unzipped: Any, tmp_path: Path) -> None:
    root = unzipped("EuroSAT_MS_sample")
    p = pack(tmp_path, name="eurosat_ms", root=str(next(root.rglob("EuroSAT_MS"))), split="none")
    assert p.manifest.doubts == [] and p.manifest.level == "L1C"
    pixels = p.records[:: len(p) // 32].reshape(-1, 13, 64, 64)
    facts = Facts("Sentinel-2", "L1C", (MS_GROUP,), "uint16", 10_000.0, 0.0, {})

    def doubted(facts: Facts, pixels: np.ndarray) -> str:
        histograms = BandHistograms(MS_BANDS, "uint16", len(pixels))
        histograms.add(pixels, 0)
        return " | ".join(doubts(facts, histograms.summary(facts.scale, facts.offset), [pixels]))

    assert doubted(facts, pixels) == ""
    assert "offset 0 is doubtful" in doubted(facts, pixels + np.uint16(1000))
    assert "offset 1000 is doubtful" in doubted(dataclasses.replace(facts, offset=1000.0), pixels)
    assert "level L2A is doubtful" in doubted(dataclasses.replace(facts, level="L2A"), pixels)
    by_wavelength = [*range(8), 12, *range(8, 12)]  # B8A behind B08, as other writers of 13 bands have it
    said = doubted(facts, pixels[:, by_wavelength])
    assert "the mean of B10" in said and "B8A goes with B12" in said


def test_v1_labels_of_19_are_those_of_v2(unzipped: Any, tmp_path: Path) -> None:
    root, metadata = unzipped("BigEarthNet-v1.0_sample"), REAL / "bigearthnet_metadata"
    p = pack(tmp_path, name="bigearthnet_v1", root=str(next(root.rglob("BigEarthNet-v1.0"))), split="none", labels=19)
    tables = [pq.read_table(path, columns=["s2v1_name", "labels"]) for path in metadata.glob("metadata*.parquet")]
    table = pa.concat_tables(tables)
    table = table.filter(pc.is_in(table["s2v1_name"], pa.array(p.ids)))
    v2 = dict(zip(table["s2v1_name"].to_pylist(), table["labels"].to_pylist(), strict=True))
    assert len(v2) == 14
    for name, labels in zip(p.ids, p.index["labels"], strict=True):
        assert [p.classes[label] for label in labels] == sorted(v2[name])


def test_published_eurosat_lists_are_disjoint_and_complete() -> None:
    for prefix in ("eurosat", "eurosat-spatial"):
        names = {
            split: read_names(REAL / "eurosat_splits" / f"{prefix}-{split}.txt") for split in ("train", "val", "test")
        }
        assert {split: len(members) for split, members in names.items()} == {
            "train": 16_200,
            "val": 5_400,
            "test": 5_400,
        }
        assert len(set().union(*names.values())) == 27_000


def test_eurosat_rgb_equals_pillow(unzipped: Any, tmp_path: Path) -> None:
    root = unzipped("EuroSAT_RGB", "_10")  # 1,110 or so of each 3,000
    p = pack(tmp_path, name="eurosat_rgb", root=str(next(root.rglob("EuroSAT_RGB"))), max_patches=400, split="random",
             splits_dir=str(REAL / "eurosat_splits"), allow_absent=True)  # fmt: skip
    assert len(p) == 400 and set(p.splits) == {"train", "val", "test"}
    (pixels,) = p.read(np.arange(400))
    for row in range(0, 400, 3):
        image = Image.open(next(root.rglob(f"{p.ids[row]}.jpg")))
        np.testing.assert_array_equal(np.moveaxis(pixels[row], 0, -1), np.asarray(image))


def test_ucmerced_is_resized_as_torchvision_does(unzipped: Any, tmp_path: Path) -> None:
    import torch
    from torchvision.transforms.v2 import functional

    root = unzipped("UCMerced_LandUse_sample", "0.tif")
    p = pack(tmp_path, name="ucmerced", root=str(root))
    assert p.manifest.gsd_m == pytest.approx(1.2) and len(p.classes) == 21
    (pixels,) = p.read(np.arange(len(p)))
    for row in range(len(p)):
        image = torch.from_numpy(np.array(Image.open(root / p.index["path"][row]))).permute(2, 0, 1)
        want = functional.resize(image.float(), [64, 64], antialias=True).numpy()
        assert np.abs(pixels[row] - want).max() <= 1.0  # Pillow rounds after each of its two passes


def test_geobench_benv2(unzipped: Any, tmp_path: Path) -> None:
    root = unzipped("GEO-Bench-2_benv2_sample")
    p = pack(tmp_path, name="geotiff", root=str(root), split="meta", labels="meta", gsd_m=10.0)
    assert {split: len(p.rows(split)) for split in p.splits} == {"train": 5, "val": 2, "test": 2}
    (pixels,) = p.read(np.arange(9))
    for row, path in enumerate(p.index["path"]):
        np.testing.assert_array_equal(pixels[row], read(root / path))


def test_unlabelled_npy(unzipped: Any, tmp_path: Path) -> None:
    root = unzipped("S2_L2A_unlabelled_sample", "_1")
    p = pack(tmp_path, name="npy", root=str(root))
    (pixels,) = p.read(np.arange(len(p)))
    for row in range(0, len(p), 11):
        np.testing.assert_array_equal(np.moveaxis(pixels[row], 0, -1), np.load(root / p.index["path"][row]))
    assert p.manifest.doubts == []
    assert p.manifest.label_kind == "none" and 0.01 < p.stats["B04"].mean < 0.3

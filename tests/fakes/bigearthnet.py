"""Small BigEarthNets in the real folder layouts, written with rasterio as the originals were with GDAL."""

import bz2
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from fakes.pixels import uint16
from rasterio import Affine

SIZES = {"B02": 120, "B03": 120, "B04": 120, "B08": 120, "B05": 60, "B06": 60, "B07": 60, "B8A": 60, "B11": 60,
         "B12": 60, "B01": 20, "B09": 20}  # fmt: skip
V1_NAMES = (
    "S2A_MSIL2A_20170613T101031_87_48",
    "S2A_MSIL2A_20180510T94033_19_86",  # v1's names are not always zero-padded
    "S2B_MSIL2A_20180204T94161_57_38",
    "S2B_MSIL2A_20170924T93020_69_24",
    "S2A_MSIL2A_20171221T112501_56_35",
    "S2B_MSIL2A_20180421T114349_41_4",
)
V1_LABELS = (["Pastures"], ["Sea and ocean", "Pastures"], ["Coniferous forest"], ["Mixed forest", "Coniferous forest"],
             ["Sea and ocean"], ["Pastures", "Mixed forest"])  # fmt: skip
V2_NAMES = (
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43",
    "S2A_MSIL2A_20180526T100031_N9999_R122_T34WFU_14_23",
    "S2A_MSIL2A_20180526T100031_N9999_R122_T34WFU_14_24",
)
V2_LABELS = (["Arable land", "Pastures"], ["Pastures"], ["Marine waters"], ["Mixed forest", "Arable land"])


def write_band(path: Path, pixels_CHW: np.ndarray, gsd_m: float = 10.0, **options: object) -> None:
    """Write a raster (C, H, W) as GDAL does by default: uncompressed strips, UTM."""
    count, height, width = pixels_CHW.shape
    place = {"crs": "EPSG:32633", "transform": Affine(gsd_m, 0.0, 404400.0, 0.0, -gsd_m, 5342400.0)}
    shape = {"count": count, "height": height, "width": width, "dtype": pixels_CHW.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as raster:
        raster.write(pixels_CHW)


def write_patch(folder: Path, suffix: str = ".tif", **options: object) -> None:
    folder.mkdir(parents=True)
    for band, px in SIZES.items():
        pixels = uint16(f"{folder.name}_{band}", (1, px, px))
        write_band(folder / f"{folder.name}_{band}{suffix}", pixels, 1200 / px, **options)


def write_v1(root: Path, metadata: Path | None = None) -> dict[str, list[str]]:
    """Write six patches and, in `metadata`, the official lists (.bz2); return {split: names}."""
    for name, labels in zip(V1_NAMES, V1_LABELS, strict=True):
        write_patch(root / name)
        date = name.split("_")[2][:8]
        facts = {
            "labels": labels,
            "coordinates": {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lry": 5341200},
            "projection": "EPSG:32633",
            "tile_source": f"S2A_MSIL1C_{date}T101031_N0205_R022_T33UUP_{date}T101608.SAFE",
            "acquisition_date": f"{date[:4]}-{date[4:6]}-{date[6:]} 10:10:31",
        }
        (root / name / f"{name}_labels_metadata.json").write_text(json.dumps(facts))
    splits = {"train": list(V1_NAMES[:3]), "val": [V1_NAMES[3]], "test": list(V1_NAMES[4:])}
    if metadata is not None:
        metadata.mkdir(parents=True, exist_ok=True)
        for split, names in splits.items():
            (metadata / f"{split}.csv.bz2").write_bytes(bz2.compress("\n".join(names).encode()))
    return splits


def write_v2(root: Path, with_metadata: bool = True) -> dict[str, list[str]]:
    """Write four patches below two tiles, one with .tiff files, and metadata.parquet; return {split: names}."""
    for name in V2_NAMES:
        tile = name.rsplit("_", 2)[0]
        write_patch(root / "BigEarthNet-S2" / tile / name, ".tiff" if name.endswith("14_23") else ".tif", nodata=0)
    splits = {"train": list(V2_NAMES[:2]), "val": [V2_NAMES[2]], "test": [V2_NAMES[3]]}
    official = {name: "validation" if split == "val" else split for split, names in splits.items() for name in names}
    columns = {"patch_id": list(V2_NAMES), "labels": list(V2_LABELS), "split": [official[name] for name in V2_NAMES],
               "country": ["Austria"] * 4}  # fmt: skip
    if with_metadata:
        pq.write_table(pa.table(columns), root / "metadata.parquet")
    return splits

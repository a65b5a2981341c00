"""UC Merced, folders of images, of .npy patches and of GeoTIFFs (GEO-Bench-2's benv2)."""

import json
from pathlib import Path

import numpy as np
from fakes.bigearthnet import write_band
from fakes.pixels import rgb, uint16
from PIL import Image

UCMERCED_CLASSES = ("agricultural", "overpass")
BENV2 = {
    "S2A_MSIL2A_20170613T101031_N9999_R022_T34VER_12_41": ("train", ["Marine waters"]),
    "S2A_MSIL2A_20180225T114351_N9999_R123_T29UPU_90_54": ("train", ["Pastures", "Arable land"]),
    "S2A_MSIL2A_20180318T093031_N9999_R136_T35UMB_18_31": ("validation", ["Pastures"]),
    "S2B_MSIL2A_20170930T095019_N9999_R079_T34UEG_57_31": ("test", ["Arable land"]),
}


def write_ucmerced(root: Path) -> None:
    """Two classes of three TIFFs; as in the original, not every one is 256 px."""
    for cls in UCMERCED_CLASSES:
        folder = root / "UCMerced_LandUse" / "Images" / cls
        folder.mkdir(parents=True)
        for number, (height, width) in enumerate(((256, 256), (247, 247), (253, 256))):
            name = f"{cls}{number:02d}"
            Image.fromarray(rgb(name, height, width)).save(folder / f"{name}.tif")


def write_images(root: Path, split_folders: bool = False, px: int = 80) -> None:
    """Two classes as PNG and JPEG, of one size; file names repeat among the classes."""
    for top in ("train", "val", "test") if split_folders else ("",):
        for cls in ("barn", "quay"):
            folder = root / top / cls
            folder.mkdir(parents=True)
            for number in range(4):
                suffix = ".png" if number % 2 else ".JPG"
                Image.fromarray(rgb(f"{top}{cls}{number}", px, px)).save(folder / f"{number:04d}{suffix}")


def write_npy(root: Path, count: int = 6, dtype: str = "uint16", channels_last: bool = True) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"test_{number}"
        pixels = uint16(name, (64, 64, 12) if channels_last else (12, 64, 64))
        np.save(root / f"{name}.npy", pixels / np.float32(10_000) if dtype == "float32" else pixels.astype(dtype))


def write_benv2(root: Path) -> dict[str, list[str]]:
    """Write four 12-band patches with meta.json, compressed and tiled; return {split: names}."""
    splits: dict[str, list[str]] = {}
    for name, (split, labels) in BENV2.items():
        (root / name).mkdir(parents=True)
        tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "zstd"}
        write_band(root / name / "s2.tif", uint16(name, (12, 120, 120)), 60.0, interleave="pixel", **tiles)
        meta = {"patch_id": name, "labels": labels, "tortilla:data_split": split, "stac:time_start": 1497312000.0}
        (root / name / "meta.json").write_text(json.dumps(meta))
        splits.setdefault({"validation": "val"}.get(split, split), []).append(name)
    return splits

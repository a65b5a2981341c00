"""Small EuroSATs: RGB JPEGs, 13-band GeoTIFFs, and the published lists' layout."""

from pathlib import Path

from fakes.bigearthnet import write_band
from fakes.pixels import rgb, uint16
from PIL import Image

CLASSES = ("AnnualCrop", "Forest", "SeaLake")
PER_CLASS = 5


def names() -> list[str]:
    return [f"{cls}_{number}" for cls in CLASSES for number in range(1, PER_CLASS + 1)]


def write_rgb(root: Path, per_class: int = PER_CLASS, px: int = 64) -> None:
    for cls in CLASSES:
        (root / cls).mkdir(parents=True)
        for number in range(1, per_class + 1):
            name = f"{cls}_{number}"
            Image.fromarray(rgb(name, px, px)).save(root / cls / f"{name}.jpg", quality=90)


def write_ms(root: Path) -> None:
    for cls in CLASSES:
        (root / cls).mkdir(parents=True)
        for number in range(1, PER_CLASS + 1):
            name = f"{cls}_{number}"
            write_band(root / cls / f"{name}.tif", uint16(name, (13, 64, 64)), interleave="pixel")


def write_lists(folder: Path, scheme: str = "random") -> dict[str, list[str]]:
    """Per class: three images train, one val, one test; another rotation for `spatial`. No newline at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    shift = 0 if scheme == "random" else 2
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for at, name in enumerate(names()):
        splits[("train", "train", "train", "val", "test")[(at + shift) % PER_CLASS]].append(name)
    prefix = "eurosat" if scheme == "random" else "eurosat-spatial"
    for split, members in splits.items():
        (folder / f"{prefix}-{split}.txt").write_text("\n".join(f"{name}.jpg" for name in members))
    return splits

"""The readers that packed records are compared with, each as its users have it.

Bands in all stacks are in the order of S2_L2A (B01 ... B12 without B10). Rasterio and torchgeo upsample by GDAL's
bilinear; the LMDB reader upsamples by nearest neighbour, as reBEN's own does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from ssl_sat.bands import S2_L2A
from ssl_sat.data.packed import Pack
from ssl_sat.data.sources.bigearthnet import GROUPS

SIDE = 120
# What GDAL's users set for many small files: no listing of the folder beside each, no sidecar files, small cache.
TUNED = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_TIFF_INTERNAL_MASK": "NO", "GDAL_CACHEMAX": 16}


def file_of(folder: Path, band: str) -> Path:
    """The file of a band; one of the real v2 patches ends in .tiff."""
    path = folder / f"{folder.name}_{band}.tif"
    return path if path.exists() else path.with_suffix(".tiff")


def rasterio_common(folder: Path) -> np.ndarray:
    """Twelve opens, every band brought to 120 px while it is read, stacked as float32: (12, 120, 120)."""
    bands = []
    for band in S2_L2A:
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as raster:
            bands.append(raster.read(1, out_shape=(SIDE, SIDE), resampling=Resampling.bilinear))
    return np.stack(bands).astype(np.float32)


def rasterio_native(folder: Path) -> list[np.ndarray]:
    """The bands as they are, (C, H, W) uint16 per resolution group; call it within `rasterio.Env(**TUNED)`."""
    groups = [np.empty((len(group.bands), group.height, group.width), np.uint16) for group in GROUPS]
    for group, out in zip(GROUPS, groups, strict=True):
        for at, band in enumerate(group.bands):
            with rasterio.open(file_of(folder, band), sharing=False) as raster:
                raster.read(1, out=out[at])
    return groups


class SafetensorsLmdb:
    """LMDB of safetensors, one value a patch, as rico-hdl writes it (Clasen et al. 2024)."""

    def __init__(self, path: Path) -> None:
        import lmdb

        self.env = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)

    @staticmethod
    def write(path: Path, names: Sequence[str], patches: Iterable[list[np.ndarray]]) -> None:
        """One transaction for all."""
        import lmdb
        from safetensors.numpy import save

        env = lmdb.open(str(path), map_size=len(names) * 200_000 + (64 << 20))
        with env.begin(write=True) as transaction:
            for name, groups in zip(names, patches, strict=True):
                transaction.put(name.encode(), save(by_band(groups)))
        env.sync(True)
        env.close()

    def native(self, name: str) -> dict[str, np.ndarray]:
        """The bands of a patch by name."""
        from safetensors.numpy import load

        with self.env.begin(write=False) as transaction:
            return load(transaction.get(name.encode()))

    def batch(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The bands of a batch of patches by name, (N, H, W) each: what a training step takes."""
        patches = [self.native(name) for name in names]
        return {band: np.stack([patch[band] for patch in patches]) for band in patches[0]}

    def upsampled(self, name: str) -> torch.Tensor:
        """All bands at 120 px, float32: (12, 120, 120)."""
        bands = self.native(name)
        planes = []
        for band in S2_L2A:
            plane = torch.from_numpy(bands[band].astype(np.float32))[None, None]
            if plane.shape[-1] != SIDE:
                plane = torch.nn.functional.interpolate(plane, (SIDE, SIDE), mode="nearest")
            planes.append(plane[0, 0])
        return torch.stack(planes)

    def close(self) -> None:
        """Unmap the file, so that its pages can be dropped."""
        self.env.close()


def by_band(groups: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The planes of the resolution groups by name."""
    return {
        band: np.ascontiguousarray(plane)
        for group, pixels in zip(GROUPS, groups, strict=True)
        for band, plane in zip(group.bands, pixels, strict=True)
    }


def torchgeo_bigearthnet(root: Path) -> Any:
    """torchgeo's data set over the layout of `patches.write_layout`."""
    from torchgeo.datasets import BigEarthNet

    return BigEarthNet(str(root), split="train", bands="s2", num_classes=43)


def gdal_upsampled(plane: np.ndarray) -> np.ndarray:
    """A plane brought to 120 px by GDAL's bilinear, as the readers above do it from a file."""
    height, width = plane.shape
    with MemoryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(driver="GTiff", height=height, width=width, count=1, dtype="uint16") as raster:
            raster.write(plane, 1)
        with file.open() as raster:
            return raster.read(1, out_shape=(SIDE, SIDE), resampling=Resampling.bilinear)


def differing(pack: Pack, row: int, folder: Path, stacks: Sequence[np.ndarray], bands: Sequence[dict]) -> int:
    """Values in which readers differ from a packed record: upsampled stacks by GDAL's rule, native bands directly."""
    record = by_band([group[0] for group in pack.read(np.array([row]))])
    expected = np.stack([gdal_upsampled(record[band]) for band in S2_L2A]).astype(np.float32)
    wrong = sum(int((stack != expected).sum()) for stack in stacks)
    for found in (*bands, by_band(rasterio_native(folder))):
        wrong += sum(int((found[band] != record[band]).sum()) for band in S2_L2A)
    return wrong

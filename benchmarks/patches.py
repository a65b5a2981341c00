"""Generated data for the benchmarks: thousands of patches with the statistics of the synthetic scenes, quickly.

A hundred scenes are composed (end-member spectra, texture, noise: ssl_sat.data.sources.scenes); every further patch is
one of them, moved by whole pixels of the coarsest grid, so that files differ and values keep their distribution.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_sat.bands import S2_L2A
from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack
from ssl_sat.data.sources.bigearthnet import GROUPS
from ssl_sat.data.sources.scenes import compose
from ssl_sat.data.sources.tiff import write_strips

SCENES = 100
_LABELS = ("Coniferous forest", "Pastures", "Sea and ocean", "Non-irrigated arable land")
_MAIN = ("built_up", "cloud", "crops", "forest", "soil", "water")


@lru_cache(maxsize=1)
def scenes() -> list[list[np.ndarray]]:
    """The composed scenes: per scene one (C, H, W) uint16 array for each resolution group."""
    made = []
    for number in range(SCENES):
        image, _ = compose(_MAIN[number % len(_MAIN)], np.random.default_rng(number))
        made.append([_coarse(image, group) for group in GROUPS])
    return made


def _coarse(image: np.ndarray, group: Any) -> np.ndarray:
    step = 120 // group.height
    at = [S2_L2A.index(band) for band in group.bands]
    means = image[at].reshape(len(at), group.height, step, group.width, step).mean(axis=(2, 4))
    return np.clip(np.rint(means * 10_000), 1, 65_535).astype(np.uint16)


def patch(number: int) -> list[np.ndarray]:
    """Patch `number`: a scene, moved."""
    dy, dx = np.random.default_rng([1, number]).integers(0, 20, 2)
    return [
        np.roll(a, (int(dy) * a.shape[1] // 20, int(dx) * a.shape[2] // 20), (1, 2)) for a in scenes()[number % SCENES]
    ]


def write_layout(root: Path, count: int) -> list[Path]:
    """Write patches in BigEarthNet v1's layout, with the lists torchgeo looks for; returns their folders."""
    base = root / "BigEarthNet-v1.0"
    base.mkdir(parents=True)
    folders = [_write_patch(base, number) for number in range(count)]
    for split in ("train", "val", "test"):
        (root / f"bigearthnet-{split}.csv").write_text("".join(f"{folder.name},none\n" for folder in folders))
    return folders


def _write_patch(base: Path, number: int) -> Path:
    column, row = number % 90, number // 90
    name = f"S2A_MSIL2A_2017{1 + number % 12:02d}{1 + number % 28:02d}T101031_{column}_{row}"
    folder = base / name
    folder.mkdir()
    ulx, uly = 600_000.0 + 1200 * column, 5_000_040.0 - 1200 * row
    for group, pixels in zip(GROUPS, patch(number), strict=True):
        for band, plane in zip(group.bands, pixels, strict=True):
            write_strips(folder / f"{name}_{band}.tif", plane, 32632, ulx, uly, 1200 / group.height)
    facts = {"labels": [_LABELS[number % len(_LABELS)]], "tile_source": "S2A_MSIL1C_20170613T101031_N0205_R022_T32TQS",
             "acquisition_date": "2017-06-13 10:10:31", "synthetic": True}  # fmt: skip
    (folder / f"{name}_labels_metadata.json").write_text(json.dumps(facts))
    return folder


def linked(root: Path, folders: list[Path]) -> Path:
    """A data set of some of the patches: links to their folders."""
    base = root / "BigEarthNet-v1.0"
    base.mkdir(parents=True)
    for folder in folders:
        (base / folder.name).symlink_to(folder)
    return root


def bigearthnet(root: Path) -> Any:
    """The data spec of a layout, without any list."""
    return SOURCES.parse({"name": "bigearthnet_v1", "root": str(root), "split": "none"})


def write_records(like: Path, out: Path, count: int) -> Pack:
    """A pack of `count` records written directly, with manifest, statistics and columns after the pack `like`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True)
    manifest = json.loads((like / "manifest.json").read_text())
    with open(out / "patches.bin", "wb") as file:
        records = np.stack([np.concatenate([a.ravel() for a in patch(n)]) for n in range(500)]).astype("<u2")
        for first in range(0, count, 500):  # the lowest bits differ from block to block
            file.write((records ^ np.uint16(first // 500 % 8))[: count - first].tobytes())
        os.fsync(file.fileno())
    manifest |= {"n": count, "splits": {"train": [0, count]}, "patches_sha256": "not computed"}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "stats.json").write_bytes((like / "stats.json").read_bytes())
    table = pq.read_table(like / "index.parquet")
    pq.write_table(table.take(pa.array(np.arange(count) % len(table))), out / "index.parquet")
    return Pack.open(out)


def small_pack(folder: Path, count: int = 50) -> Pack:
    """A pack of a few patches, made the ordinary way."""
    write_layout(folder / "small", count)
    (folder / "small-pack").mkdir()
    write_pack(bigearthnet(folder / "small"), folder / "small-pack", None)
    return Pack.open(folder / "small-pack")


def forget(*paths: Path) -> None:
    """Drop the files' pages from the cache (posix_fadvise DONTNEED); they must be written and not mapped by anyone."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def cached_share(path: Path) -> float:
    """Share of a file's pages that lie in the page cache (mincore)."""
    size = path.stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        pages = -(-size // mmap.PAGESIZE)
        state = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        if ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), state):
            raise OSError(ctypes.get_errno(), "mincore")
        return float((np.frombuffer(state, np.uint8) & 1).mean())

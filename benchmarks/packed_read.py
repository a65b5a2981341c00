"""Reading packed records against reading GeoTIFFs with rasterio, side by side in one run; prints ratios.

    python benchmarks/packed_read.py [--patches 400] [--rounds 5]

The patches are synthetic scenes in BigEarthNet's layout. Both sides give all 12 bands at native resolution as
arrays; 'as most code calls it' also brings the 20 m and 60 m bands to 120 pixels, as common loaders do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack


def native(folders: list[Path]) -> int:
    total = 0
    for folder in folders:
        for path in sorted(folder.glob("*.tif")):
            with rasterio.open(path) as raster:
                total += raster.read(1).nbytes
    return total


def common(folders: list[Path]) -> int:
    total = 0
    for folder in folders:
        bands = []
        for path in sorted(folder.glob("*.tif")):
            with rasterio.open(path) as raster:
                bands.append(raster.read(1, out_shape=(120, 120), resampling=Resampling.bilinear))
        total += np.stack(bands).astype(np.float32).nbytes
    return total


def packed(pack: Pack, order: np.ndarray, batch: int = 256) -> int:
    return sum(sum(g.nbytes for g in pack.read(order[at : at + batch])) for at in range(0, len(order), batch))


def median_rates(tasks: dict[str, tuple[int, Callable[[], int]]], rounds: int) -> dict[str, float]:
    """Patches a second of each task: median over interleaved rounds."""
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, (count, task) in tasks.items():
            began = time.perf_counter()
            task()
            rates[name].append(count / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "scenes", Path(folder) / "pack"
        out.mkdir()
        per_class = options.patches // 5
        write_pack(SOURCES.parse({"name": "scenes", "root": str(root), "patches_per_class": per_class}), out, None)
        pack = Pack.open(out)
        folders = sorted(p for p in root.iterdir() if p.is_dir())
        some = folders[: min(100, len(folders))]
        order = np.random.default_rng(0).permutation(len(pack))
        tasks = {
            "rasterio as most code calls it (12 bands to 120 px, float32)": (len(some), lambda: common(some)),
            "rasterio, native": (len(some), lambda: native(some)),
            "packed records, shuffled": (len(order), lambda: packed(pack, order)),
        }
        rates = median_rates(tasks, options.rounds)
    ours = rates["packed records, shuffled"]
    for name, rate in rates.items():
        print(f"{rate:12,.0f} patches/s   packed / this = {ours / rate:8.1f}   {name}")


if __name__ == "__main__":
    main()

"""Packing against reading the same patches with rasterio; a part of `benchmarks.loading`.

The opponent reads each patch's twelve bands at native resolution with tuned rasterio and appends the bytes to one file.
It makes no checksum, no statistics and no index, all of which `write_pack` makes: the ratio understates ours.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import rasterio

from benchmarks import patches, readers
from benchmarks.harness import Bench, Gate, Task, ratios
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack

OURS, OPPONENT = "packing, write_pack, one process", "packing, rasterio to one file"
GATES = (
    Gate("packing, per core", 3.0, ">=", "x faster", "rasterio reading the same files into one file"),
    Gate("packing, bytes that differ from rasterio's", 0.0, "<=", "bytes", "the same patches read by rasterio"),
    Gate("packing, time per patch, 20,000 against 5,000", 1.2, "<=", "x", "itself"),
)


def pack(root: Path, out: Path, workers: int | None = 1) -> None:
    """Pack a layout into `out`, from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    write_pack(patches.bigearthnet(root), out, None, workers)


def by_rasterio(folders: list[Path], out: Path) -> None:
    """The same records by rasterio, in the order given."""
    with rasterio.Env(**readers.TUNED), open(out, "wb") as file:
        for folder in folders:
            for group in readers.rasterio_native(folder):
                file.write(group)  # type: ignore[arg-type]


def run(bench: Bench, folder: Path, folders: list[Path]) -> None:
    """Speed and bytes on some patches, then whether time grows with their number alone. `folders` lie in a layout."""
    some = patches.linked(folder / "some", folders[: bench.size(400, 10)])
    chosen = sorted(some.glob("BigEarthNet-v1.0/*"))
    times = bench.time({
        OURS: Task(len(chosen), lambda: pack(some, folder / "ours")),
        OPPONENT: Task(len(chosen), lambda: by_rasterio(chosen, folder / "theirs.bin")),
    })  # fmt: skip
    bench.gate(
        GATES[0].name, ratios(times, OPPONENT, OURS), "ours with checksums, statistics and index, theirs without"
    )
    bench.gate(GATES[1].name, _differing(folder, real_patches(folder)))
    bench.figure("packing, patches a second and core", [1 / t for t in times[OURS]], "patches/s")
    _growth(bench, folder, folders)
    _workers(bench, folder, folders)
    shutil.rmtree(folder / "ours")


def real_patches(folder: Path) -> Path | None:
    """The layout of the real BigEarthNet patches, unpacked below `folder`, where there are any."""
    import zipfile

    root = Path(__file__).resolve().parents[1]
    file = Path(os.environ.get("SSL_SAT_REAL_DATA") or root.parent / "shared" / "data") / "BigEarthNet-v1.0_sample.zip"
    if not file.is_file():
        return None
    if not (folder / "real").is_dir():
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder / "real")
    return next((folder / "real").rglob("BigEarthNet-v1.0"))


def _differing(folder: Path, real: Path | None) -> int:
    """Bytes that differ between our records and rasterio's: of generated patches, and of real ones if there are any."""
    wrong = _compare(folder / "ours" / "patches.bin", folder / "theirs.bin")
    if real is None:
        print("  no real patches here; compared on generated ones alone")
        return wrong
    pack(real.parent, folder / "real-pack")
    records = Pack.open(folder / "real-pack")
    by_rasterio([real / name for name in records.ids], folder / "real.bin")
    print(f"  compared {len(records)} real patches byte by byte")
    return wrong + _compare(folder / "real-pack" / "patches.bin", folder / "real.bin")


def _compare(one: Path, other: Path) -> int:
    a, b = np.fromfile(one, np.uint8), np.fromfile(other, np.uint8)
    return max(len(a), len(b)) if len(a) != len(b) else int((a != b).sum())


def _growth(bench: Bench, folder: Path, folders: list[Path]) -> None:
    few = patches.linked(folder / "few", folders[: len(folders) // 4])
    names = {f"packing {len(folders):,} patches": folders[0].parents[1], f"packing {len(folders) // 4:,} patches": few}
    sizes = dict(zip(names, (len(folders), len(folders) // 4), strict=True))
    times = bench.time(
        {
            name: Task(sizes[name], lambda r=root: pack(r, folder / "ours"), warm_up=False)
            for name, root in names.items()
        }
    )
    found = ratios(times, *names)
    bench.gate(GATES[2].name, found) if not bench.quick else bench.figure(GATES[2].name, found, "x")


def _workers(bench: Bench, folder: Path, folders: list[Path]) -> None:
    """All cores: not a figure per core, and not a gate."""
    cores, some = len(os.sched_getaffinity(0)), folder / "few"
    count = len(folders) // 4
    names = ("packing, all cores", "packing, one process")
    times = bench.time({
        names[0]: Task(count, lambda: pack(some, folder / "ours", None), warm_up=False),
        names[1]: Task(count, lambda: pack(some, folder / "ours", 1), warm_up=False),
    })  # fmt: skip
    bench.figure(f"packing with {cores} workers", ratios(times, names[1], names[0]), "x faster", "than one process")

"""Packing and reading BigEarthNet, side by side with the readers that its users have.

    python -m benchmarks.loading [--quick] [--scratch <folder with 9 GB free>]

One process, one thread a side. Generated patches for scale, real ones where there are any; every reader must give equal
pixels before it is timed. 'Cold' means that the files' pages were dropped from the page cache by posix_fadvise before
each run, which is checked by mincore; what a virtual disk's host keeps in its own memory cannot be dropped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from benchmarks import harness, packing_rates, patches, readers
from benchmarks.harness import Bench, Gate, Task, ratios
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack

BATCH = 256
TORCHGEO, COMMON, TUNED = "torchgeo BigEarthNet", "rasterio, 12 opens to 120 px", "rasterio, tuned, native"
NATIVE, STACKED, UPSAMPLED = (
    "LMDB of safetensors, native",
    "LMDB of safetensors, native, in batches",
    "LMDB of safetensors, to 120 px",
)
OURS, BUFFER, BATCHES = "pack, PatchLoader", "pack, into one kept buffer", "pack, new tensors for every batch"
GATES = (
    *packing_rates.GATES,
    Gate("reading, values in which readers differ", 0.0, "<=", "values", "rasterio, torchgeo, LMDB"),
    Gate("reading, PatchLoader, per core", 100.0, ">=", "x faster", TORCHGEO, ("torchgeo",)),
    Gate("reading, records into one kept buffer, native bands", 3.0, ">=", "x faster", NATIVE, ("lmdb",)),
    Gate("reading, PatchLoader, batches of native bands", 3.0, ">=", "x faster", STACKED, ("lmdb",)),
    Gate("reading, PatchLoader, upsampled bands", 20.0, ">=", "x faster", UPSAMPLED, ("lmdb",)),
    Gate("reading, time per patch, 50,000 against 5,000", 1.2, "<=", "x", "itself"),
    Gate("reading, own memory, 50,000 against 5,000", 1.1, "<=", "x", "itself"),
)
_RECORD = 160_000


def run(bench: Bench, folder: Path) -> None:
    """Packing first, since it needs most room; then reading; then a long pack."""
    count = bench.size(20_000, 60)
    room, needed = shutil.disk_usage(folder).free, int(2.3 * count * _RECORD) + 10**9
    if room < needed:
        raise OSError(f"{folder}: {room / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed; set --scratch")
    print(f"  writing {count:,} patches ...", flush=True)
    folders = patches.write_layout(folder / "layout", count)
    packing_rates.run(bench, folder, folders)
    _readers(bench, folder, folders[: bench.size(6_000, 30)])
    shutil.rmtree(folder / "layout")
    _growth(bench, folder)


def _readers(bench: Bench, folder: Path, folders: list[Path]) -> None:
    packing_rates.pack(patches.linked(folder / "read", folders), folder / "pack")
    pack = Pack.open(folder / "pack")  # its records are never touched here: a mapping would keep pages in the cache
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pack))
    some = [folders[at] for at in rng.permutation(len(folders))[: bench.size(60, 5)]]
    peers = _by_rasterio(some)
    if bench.can("reading, PatchLoader, per core"):
        peers[TORCHGEO] = _by_torchgeo(folder, some)
    if bench.can(*(gate.name for gate in GATES if gate.needs == ("lmdb",))):
        _write_lmdb(folder / "lmdb", Pack.open(pack.folder))
        peers |= _by_lmdb(folder / "lmdb", [pack.ids[row] for row in order], bench.size(500, 5))
    wrong = _compare(folder, Pack.open(pack.folder), folders, bench)
    bench.gate("reading, values in which readers differ", wrong)
    if wrong:
        raise AssertionError(f"readers differ in {wrong} values: nothing to time")
    times = bench.time(_ours(pack.folder, order) | {name: task for name, (task, _) in peers.items()})
    for gate in (gate for gate in GATES if gate.against in times):
        bench.gate(gate.name, ratios(times, gate.against, BUFFER if "kept buffer" in gate.name else OURS))
    for peer in (COMMON, TUNED, *([NATIVE] if NATIVE in times else [])):
        bench.figure(f"reading, PatchLoader / {peer}", ratios(times, peer, OURS), "x faster", "warm")
    for own in (BUFFER, BATCHES):
        bench.figure(f"reading, {own} / {COMMON}", ratios(times, COMMON, own), "x faster", "warm")
    bench.figure("reading, PatchLoader, patches a second", [1 / t for t in times[OURS]], "patches/s", "warm")
    peers[OURS] = (_once(pack.folder, order), [pack.folder / "patches.bin"])
    _cold(bench, peers)


Timed = dict[str, tuple[Task, list[Path]]]  # a task and the files it reads


def _write_lmdb(path: Path, pack: Pack) -> None:
    records = ([group[0] for group in pack.read(np.array([row]))] for row in range(len(pack)))
    readers.SafetensorsLmdb.write(path, pack.ids, records)


def _epochs(folder: Path) -> Task:
    """Every record once a run, in another order each time, by one loader that stays open, as during training."""
    pack = Pack.open(folder)
    loader = PatchLoader(pack, np.arange(len(pack)), min(BATCH, len(pack)), shuffle=True, drop_last=True)
    epoch = iter(range(10**9))

    def read() -> None:
        loader.set_epoch(next(epoch))
        for _ in loader:
            pass

    return Task(len(loader) * loader.batch_size, read)


def _once(folder: Path, order: np.ndarray) -> Task:
    """A loader opened for one epoch: nothing of the file is mapped when it is over."""

    def read() -> None:
        for _ in PatchLoader(Pack.open(folder), order, min(BATCH, len(order)), shuffle=True):
            pass

    return Task(len(order), read)


def _ours(folder: Path, order: np.ndarray) -> dict[str, Task]:
    pack, buffer = Pack.open(folder), np.empty((BATCH, _RECORD // 2), np.uint16)
    cuts = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    return {
        OURS: _epochs(folder),
        BUFFER: Task(len(order), lambda: [pack.read(rows, out=buffer[: len(rows)]) for rows in cuts]),
        BATCHES: Task(len(order), lambda: [pack.batch(rows) for rows in cuts]),
    }


def _by_rasterio(folders: list[Path]) -> Timed:
    files = [path for folder in folders for path in folder.glob("*.tif")]

    def tuned() -> None:
        with rasterio.Env(**readers.TUNED):
            for folder in folders:
                readers.rasterio_native(folder)

    return {COMMON: (Task(len(folders), lambda: [readers.rasterio_common(f) for f in folders]), files),
            TUNED: (Task(len(folders), tuned), files)}  # fmt: skip


def _by_torchgeo(folder: Path, folders: list[Path]) -> tuple[Task, list[Path]]:
    dataset = readers.torchgeo_bigearthnet(folder / "layout")
    number = {Path(entry["s2"]).name: at for at, entry in enumerate(dataset.folders)}
    chosen = [number[f.name] for f in folders]
    return Task(len(chosen), lambda: [dataset[at] for at in chosen]), [p for f in folders for p in f.iterdir()]


def _by_lmdb(path: Path, names: list[str], few: int) -> Timed:
    def reading(way: str, keys: Sequence[str | list[str]]) -> Callable[[], None]:
        def read() -> None:
            database = readers.SafetensorsLmdb(path)
            for key in keys:
                getattr(database, way)(key)
            database.close()

        return read

    files, batches = [path / "data.mdb"], [names[at : at + BATCH] for at in range(0, len(names), BATCH)]
    return {NATIVE: (Task(len(names), reading("native", names)), files),
            STACKED: (Task(len(names), reading("batch", batches)), files),
            UPSAMPLED: (Task(len(names[:few]), reading("upsampled", names[:few])), files)}  # fmt: skip


def _compare(folder: Path, pack: Pack, folders: list[Path], bench: Bench) -> int:
    """Values in which any reader differs from the pack, on some generated patches and on the real ones."""
    places = {f.name: f for f in folders}
    database = readers.SafetensorsLmdb(folder / "lmdb") if (folder / "lmdb").is_dir() else None
    geo = readers.torchgeo_bigearthnet(folder / "layout") if find_spec("torchgeo") else None
    wrong = 0
    for row in range(0, len(pack), max(1, len(pack) // bench.size(20, 3))):
        name = pack.ids[row]
        stacks, bands = [readers.rasterio_common(places[name])], []
        if geo is not None:
            at = next(i for i, entry in enumerate(geo.folders) if Path(entry["s2"]).name == name)
            stacks.append(geo[at]["image"].numpy())
        if database is not None:
            bands.append(database.native(name))
            finest = database.upsampled(name).numpy()[[1, 2, 3, 7]]  # B02 B03 B04 B08: the coarse ones are nearest
            wrong += int((finest != pack.read(np.array([row]))[0][0]).sum())
        wrong += readers.differing(pack, row, places[name], stacks, bands)
    if (folder / "real-pack").is_dir():
        real, base = Pack.open(folder / "real-pack"), packing_rates.real_patches(folder)
        for row, name in enumerate(real.ids):
            wrong += readers.differing(real, row, base / name, [readers.rasterio_common(base / name)], [])
    return wrong


def _cold(bench: Bench, tasks: Timed) -> None:
    """The same with the pages dropped before every run."""
    left: list[float] = []

    def before(files: list[Path]) -> Callable[[], None]:
        def drop() -> None:
            patches.forget(*files)
            left.append(max(patches.cached_share(path) for path in files[:4]))

        return drop

    names = [name for name in (OURS, COMMON, TORCHGEO, NATIVE) if name in tasks]
    cold: dict[str, Task] = {}
    for name in names:
        task, files = tasks[name]
        cold[f"{name}, cold"] = Task(task.items, task.run, before(files), warm_up=False)
    times = bench.time(cold)
    note = f"cold by posix_fadvise; at most {max(left):.0%} of the pages were left in the cache"
    for name in names[1:]:
        bench.figure(
            f"reading, PatchLoader / {name}, cold", ratios(times, f"{name}, cold", f"{OURS}, cold"), "x faster", note
        )
    megabytes = [_RECORD / seconds / 1e6 for seconds in times[f"{OURS}, cold"]]
    bench.figure("reading, PatchLoader, cold", megabytes, "MB/s", note)


def _growth(bench: Bench, folder: Path) -> None:
    """Whether a longer pack costs more per patch, in time or in memory that is the process's own."""
    sizes = (bench.size(50_000, 600), bench.size(5_000, 300))
    for name in ("ours", "pack", "lmdb"):
        shutil.rmtree(folder / name, ignore_errors=True)
    small = patches.small_pack(folder, 20)
    room, needed = min(shutil.disk_usage(folder).free, harness.free_memory()), sum(sizes) * _RECORD
    if room < needed:
        bench.not_run([gate.name for gate in GATES[-2:]], f"{needed / 1e9:.1f} GB of disk and page cache are needed")
        return
    print(f"  writing {sizes[0]:,} records ...", flush=True)
    packs = [patches.write_records(small.folder, folder / f"records-{n}", n) for n in sizes]
    tasks: dict[str, Task] = {}
    for pack in packs:
        tasks[f"reading {len(pack):,} records"] = _epochs(pack.folder)
    found = ratios(bench.time(tasks), *tasks)
    memory = [own_memory(pack.folder, bench.threads) for pack in packs]
    if bench.quick:
        return
    bench.gate(GATES[-2].name, found)
    bench.gate(GATES[-1].name, memory[0] / memory[1], f"{memory[1] / 1e6:.0f} MB; pages of the file are the system's")


def own_memory(pack: Path, threads: int) -> int:
    """Bytes of anonymous memory, at the most, of a process that reads a pack once in shuffled order."""
    line = [sys.executable, "-m", "benchmarks.loading", "own-memory", str(pack), str(threads)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(done.stdout.split()[-1])


def _watch(pack: Path, threads: int) -> int:
    import torch

    from benchmarks.memory import resident

    torch.set_num_threads(threads)
    opened = Pack.open(pack)
    loader: Any = PatchLoader(opened, np.arange(len(opened)), BATCH, shuffle=True, drop_last=True)
    most = 0
    for step, _ in enumerate(loader):
        if step == 8:
            time.sleep(1)  # until the ring is as far ahead as it may be, whatever the other load
        most = max(most, resident("RssAnon"))
    return most


if __name__ == "__main__":
    if sys.argv[1:2] == ["own-memory"]:
        print(_watch(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        harness.main("loading", __doc__, GATES, run)

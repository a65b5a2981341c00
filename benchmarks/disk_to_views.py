"""From files on disk to two normalised views of a batch, 12 bands at 64 px: the whole of what feeds a training step.

    python -m benchmarks.disk_to_views [--quick] [--threads 1]

Ours: a pack, the loader, the views. Peers: rasterio as most code calls it with torchvision sample by sample; torchgeo's
BigEarthNet with Kornia on batches. The same operations as in `benchmarks.views`; warm page cache; no worker processes
on any side, since these multiply all of them alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import harness, packing_rates, patches, readers
from benchmarks import views as recipes
from benchmarks.harness import Bench, Gate, Task, ratios
from ssl_sat.augment.views import Views
from ssl_sat.bands import S2_L2A
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack

OURS = "ours: pack, loader, views"
TORCHVISION = "rasterio, torchvision sample by sample"
KORNIA = "torchgeo BigEarthNet, Kornia"
GATES = (
    Gate("disk to two views / rasterio + torchvision", 10.0, ">=", "x faster", TORCHVISION, on_cuda=20.0),
    Gate("disk to two views / torchgeo + Kornia", 10.0, ">=", "x faster", KORNIA, ("torchgeo", "kornia"), on_cuda=20.0),
)
_MEAN, _STD = [1000.0] * 12, [800.0] * 12  # the peers standardise digital numbers


def run(bench: Bench, folder: Path) -> None:
    """Every side goes through patches of one layout; the peers through fewer of them."""
    folders = patches.write_layout(folder / "layout", bench.size(1024, 32))
    packing_rates.pack(folder / "layout", folder / "pack")
    some = folders[: bench.size(64, 8)]
    tasks = {
        OURS: Task(2 * len(folders), lambda: ours(folder / "pack", bench.size(256, 16), bench.device)),
        TORCHVISION: Task(2 * len(some), lambda: by_torchvision(some, bench.device)),
    }
    if bench.can(GATES[1].name):
        tasks[KORNIA] = Task(2 * len(some), lambda: by_kornia(folder / "layout", len(some), bench.device))
    times = bench.time(tasks)
    for gate, peer in zip(GATES, (TORCHVISION, KORNIA), strict=True):
        if peer in times:
            bench.gate(gate.name, ratios(times, peer, OURS))
    bench.figure("disk to two views, views a second", [1 / t for t in times[OURS]], "views/s")


def ours(folder: Path, batch: int, device: str) -> torch.Tensor:
    """One epoch; returns the last views."""
    pack = Pack.open(folder)
    layout = [(group.bands, group.height, group.width) for group in pack.groups]
    views = Views(recipes.GEOMETRIC, layout, bands=S2_L2A, scale=pack.manifest.scale, offset=pack.manifest.offset,
                  mean_C=recipes.MEAN, std_C=recipes.STD, image_size=recipes.SIZE)  # fmt: skip
    x = torch.empty(0)
    for batch_ in PatchLoader(pack, np.arange(len(pack)), batch, shuffle=True):
        groups = tuple(group.to(device, non_blocking=True) for group in batch_.groups)
        x = views(groups, batch_.rows_N.to(device), 0)
    return x


def by_torchvision(folders: list[Path], device: str) -> torch.Tensor:
    """Sample by sample, as a Dataset's __getitem__ does it."""
    transform = recipes.torchvision_transform(_MEAN, _STD)
    pairs = []
    for folder in folders:
        x = torch.from_numpy(readers.rasterio_common(folder))
        pairs.append(torch.stack([transform(x), transform(x)]))
    return torch.stack(pairs, 1).to(device)


def by_kornia(root: Path, count: int, device: str) -> torch.Tensor:
    """A batch of torchgeo's samples, then Kornia on the device."""
    dataset = readers.torchgeo_bigearthnet(root)
    x = torch.stack([dataset[at]["image"] for at in range(count)]).to(device)
    return recipes.twice(x, recipes.kornia_transform(_MEAN, _STD).to(device))


if __name__ == "__main__":
    harness.main("disk_to_views", __doc__, GATES, run)

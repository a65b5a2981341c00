"""A whole SimCLR training step: against the same step on a fixed tensor, lightly's example and torchgeo's SimCLRTask.

    python -m benchmarks.step [--quick] [--threads 1]

One encoder (timm's ResNet-18 with the 7x7 stem, 64 px), one head (512-512-128 with batch norm), the same batch,
precision (float32; bf16 on CUDA), memory format (contiguous; channels_last on CUDA) and threads on every side; inputs
lie in memory (BigEarthNet records for twelve bands, 64 px images for RGB). The Amdahl bound of a peer is what it would
gain if everything but the encoder's step cost nothing: its step / ours on a fixed tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import harness, patches
from benchmarks import views as recipes
from benchmarks.harness import Bench, Gate, Task, ratios
from ssl_sat.augment.views import Views
from ssl_sat.bands import S2_L2A
from ssl_sat.data.loader import PatchLoader
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS
from ssl_sat.optim import build_optimizer
from ssl_sat.optim.spec import OptimSpec

GATES = (
    Gate("training step / the same on a fixed tensor", 1.10, "<=", "x", "itself, 12 bands, ResNet-18", on_cuda=1.03),
)
LR = 0.01
# Dense bf16 multiply-add peaks that the makers state, FLOP/s.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "B200": 2250e12}
Step = Callable[[], Any]


def precision(device: str) -> AbstractContextManager:
    """bf16 autocast on CUDA, nothing on a CPU."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda")


def placed(module: nn.Module, device: str) -> nn.Module:
    """On the device, in its memory format, in train mode."""
    format_ = torch.channels_last if device == "cuda" else torch.contiguous_format
    return module.to(device, memory_format=format_).train()  # type: ignore[call-overload]


def optimised(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer, device: str) -> None:
    """Forward, backward and update."""
    with precision(device):
        loss = loss_of()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def our_method(bands: tuple[str, ...], device: str) -> tuple[Any, torch.optim.Optimizer]:
    """SimCLR as `ssl_sat.pretrain` builds it, with SGD, which the peers' examples use or come near."""
    encoder = ENCODERS.build(ENCODERS.parse({"name": "resnet18"}), bands=bands, image_size=recipes.SIZE, seed=0)
    method = placed(METHODS.build(METHODS.parse({"name": "simclr"}), encoder=encoder, seed=0), device)
    spec = OptimSpec(name="sgd", lr=LR, scale="none", weight_decay=1e-4)
    return method, build_optimizer(spec, method.named_parameters(), 1)


def end_to_end(method: Any, optimizer: Any, batches: Callable[[], Any], views: Views, device: str) -> Step:
    """Batch, views, loss, backward, update: what the Lightning module's step and its loop do."""
    epoch = iter(range(10**9))

    def step() -> None:
        groups, rows_N = batches()
        x_VNCHW = views(groups, rows_N, next(epoch))
        optimised(lambda: method.loss(x_VNCHW)[0], optimizer, device)

    return step


def fixed(method: Any, optimizer: Any, x_VNCHW: Tensor, device: str) -> Step:
    """The same on views that were made before."""
    return lambda: optimised(lambda: method.loss(x_VNCHW)[0], optimizer, device)


def torchgeo_step(x_NCHW: Tensor, device: str) -> Step:
    """torchgeo's SimCLRTask (version 1) with its own augmentations on a batch of 12 bands at 120 px."""
    from torchgeo.trainers import SimCLRTask

    task = SimCLRTask(model="resnet18", in_channels=12, version=1, layers=2, hidden_dim=512, output_dim=128,
                      temperature=0.5, memory_bank_size=0, size=recipes.SIZE)  # fmt: skip
    task = placed(task, device)
    optimizer = torch.optim.SGD(task.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    return lambda: optimised(lambda: task.training_step({"image": x_NCHW}, 0), optimizer, device)


def lightly_step(images: list, device: str) -> Step:
    """lightly's SimCLR example: PIL images through SimCLRTransform, two forward passes, NTXentLoss, SGD."""
    import timm
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    transform, criterion = SimCLRTransform(input_size=recipes.SIZE), NTXentLoss(temperature=0.5)
    backbone = timm.create_model("resnet18", num_classes=0)
    model = placed(nn.Sequential(backbone, SimCLRProjectionHead(512, 512, 128)), device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)

    def loss() -> Tensor:
        pairs = [transform(image) for image in images]
        x0, x1 = (torch.stack([pair[view] for pair in pairs]).to(device) for view in (0, 1))
        return criterion(model(x0), model(x1))

    return lambda: optimised(loss, optimizer, device)


def run(bench: Bench, folder: Path) -> None:
    """Twelve bands from a pack, then RGB."""
    warnings.filterwarnings("ignore", ".*trainer. reference is not registered.*")
    warnings.filterwarnings("ignore", ".*SimCLR v.*")
    count = bench.size(64, 8) if bench.device == "cpu" else 512
    _twelve_bands(bench, folder, count)
    _rgb(bench, count)


def _twelve_bands(bench: Bench, folder: Path, count: int) -> None:
    pack = patches.small_pack(folder, 2 * count)
    layout = [(group.bands, group.height, group.width) for group in pack.groups]
    views = Views(recipes.GEOMETRIC, layout, bands=S2_L2A, scale=pack.manifest.scale, offset=0.0,
                  mean_C=recipes.MEAN, std_C=recipes.STD, image_size=recipes.SIZE)  # fmt: skip
    method, optimizer = our_method(S2_L2A, bench.device)
    batches = _endless(PatchLoader(pack, np.arange(len(pack)), count, shuffle=True, drop_last=True), bench.device)
    groups, rows_N = batches()
    x_VNCHW = views(groups, rows_N, 0)
    names = ("ours, from the pack", "ours, fixed tensor", "torchgeo SimCLRTask")
    tasks = {
        names[0]: Task(count, end_to_end(method, optimizer, batches, views, bench.device)),
        names[1]: Task(count, fixed(method, optimizer, x_VNCHW, bench.device)),
    }
    if not Gate("", 0, ">=", "", "", ("torchgeo",)).absent():
        tasks[names[2]] = Task(count, torchgeo_step(recipes.stacked(groups).to(bench.device), bench.device))
    times = bench.time(tasks, rounds=2 * bench.rounds - 1)
    bench.gate(GATES[0].name, ratios(times, names[0], names[1]), f"ResNet-18, {count} patches a step")
    bench.figure("training step, 12 bands, patches a second", [1 / t for t in times[names[0]]], "patches/s")
    if names[2] in times:
        _beside_bound(bench, "training step, 12 bands / torchgeo SimCLRTask", times, names)
    _model_flops(bench, method, x_VNCHW, [t * count for t in times[names[0]]])


def _endless(loader: PatchLoader, device: str) -> Callable[[], tuple[tuple[Tensor, ...], Tensor]]:
    """Batch after batch, epoch after epoch, on the device."""

    def through() -> Any:
        for epoch in range(10**9):
            loader.set_epoch(epoch)
            for batch in loader:
                yield tuple(g.to(device, non_blocking=True) for g in batch.groups), batch.rows_N.to(device)

    stream = through()
    return lambda: next(stream)


def _rgb(bench: Bench, count: int) -> None:
    if Gate("", 0, ">=", "", "", ("lightly",)).absent():
        return
    from PIL import Image

    pixels, views, groups = recipes.rgb_views(count, bench.device)
    rows_N = torch.arange(count, device=bench.device)
    method, optimizer = our_method(("red", "green", "blue"), bench.device)
    names = ("ours, RGB in memory", "ours, RGB, fixed tensor", "lightly SimCLR example")
    images = [Image.fromarray(image) for image in pixels]
    times = bench.time({
        names[0]: Task(count, end_to_end(method, optimizer, lambda: (groups, rows_N), views, bench.device)),
        names[1]: Task(count, fixed(method, optimizer, views(groups, rows_N, 0), bench.device)),
        names[2]: Task(count, lightly_step(images, bench.device)),
    })  # fmt: skip
    bench.figure("training step, RGB / the same on a fixed tensor", ratios(times, names[0], names[1]), "x")
    _beside_bound(bench, "training step, RGB / lightly's example", times, names)


def _beside_bound(bench: Bench, name: str, times: harness.Times, names: tuple[str, ...]) -> None:
    bound = sorted(ratios(times, names[2], names[1]))[len(times[names[2]]) // 2]
    bench.figure(name, ratios(times, names[2], names[0]), "x faster", f"Amdahl bound {bound:.2f}x")


def _model_flops(bench: Bench, method: Any, x_VNCHW: Tensor, seconds: list[float]) -> None:
    """FLOP of the model's forward and backward a second; on a known GPU as a share of its peak."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        method.encoder(x_VNCHW.flatten(0, 1)).sum().backward()
    flops = counter.get_total_flops()
    bench.figure("model FLOP a second in the step", [flops / t / 1e9 for t in seconds], "GFLOP/s", "encoder alone")
    peak = PEAKS.get(next((key for key in PEAKS if key in harness.machine()), ""))
    if bench.device == "cuda" and peak is not None:
        bench.figure("model FLOP utilisation", [flops / t / peak for t in seconds], "of bf16 peak")


if __name__ == "__main__":
    harness.main("step", __doc__, GATES, run)

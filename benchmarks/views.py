"""Two views of a batch against torchvision per sample, Kornia per batch, and lightly's transform for RGB.

    python -m benchmarks.views [--quick] [--threads 1]

The same operations on all sides: random resized crop (.2-1) to 64 px with antialiasing, both flips, a 3-tap Gaussian
blur with probability 1/2, normalisation. 'Same input' is one float32 stack (N, 12, 120, 120) in memory for every side,
the only form that the peers take. Ours from the native integers of a pack, which is how it is used, is shown beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import harness, patches
from benchmarks.harness import Bench, Gate, Task, ratios
from ssl_sat.augment import geometric as geo
from ssl_sat.augment.draws import Draws
from ssl_sat.augment.spec import AugmentSpec, RgbSpec
from ssl_sat.augment.views import Views
from ssl_sat.bands import S2_L2A
from ssl_sat.data.sources.bigearthnet import GROUPS

SIZE, SCALE, RATIO, SIGMA = 64, (0.2, 1.0), (3 / 4, 4 / 3), (0.1, 2.0)
GATES = (
    Gate("two views, same input / torchvision", 4.0, ">=", "x faster", "torchvision, sample by sample", on_cuda=20.0),
    Gate("two views, same input / Kornia", 6.0, ">=", "x faster", "Kornia, whole batches", ("kornia",), on_cuda=5.0),
    Gate("crop error", 1e-6, "<=", "of full scale", "torchvision resized_crop, antialias, float64", on_cuda=1e-5),
)
GEOMETRIC = AugmentSpec(
    name="geometric", crop_scale=SCALE, crop_ratio=RATIO, flip_horizontal=0.5, flip_vertical=0.5,
    blur=0.5, blur_kernel=3, blur_sigma=SIGMA,
)  # fmt: skip
MEAN, STD = [0.1] * 12, [0.08] * 12


def native_batch(count: int) -> list[Tensor]:
    """Integers as a pack gives them: one (N, C, H, W) int16 tensor per resolution group."""
    made = [patches.patch(number) for number in range(count)]
    return [torch.from_numpy(np.stack(group).view(np.int16)) for group in zip(*made, strict=True)]


def stacked(groups: Sequence[Tensor]) -> Tensor:
    """The same as reflectance at 120 px, (N, 12, 120, 120) float32, in the order of S2_L2A."""
    planes = [torch.nn.functional.interpolate(g.float(), (120, 120), mode="nearest") for g in groups]
    names = [band for group in GROUPS for band in group.bands]
    return (torch.cat(planes, 1)[:, [names.index(band) for band in S2_L2A]] / 10_000).contiguous()


def ours(groups: Sequence[Tensor], layout: Sequence[tuple], scale: float, recipe: AugmentSpec) -> Callable[[], Tensor]:
    """Both views of the batch; every call is another epoch."""
    views = Views(recipe, layout, bands=S2_L2A, scale=scale, offset=0.0, mean_C=MEAN, std_C=STD, image_size=SIZE)
    rows, epoch = torch.arange(len(groups[0]), device=groups[0].device), iter(range(10**9))
    return lambda: views(groups, rows, next(epoch))


def torchvision_transform(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Callable[[Tensor], Tensor]:
    """One view of one sample (C, H, W)."""
    from torchvision.transforms import v2

    blur = v2.RandomApply([v2.GaussianBlur(3, SIGMA)], p=0.5)
    crop = v2.RandomResizedCrop(SIZE, scale=SCALE, ratio=RATIO, antialias=True)
    return v2.Compose(
        [crop, v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), blur, v2.Normalize(list(mean), list(std))]
    )


def per_sample(x_NCHW: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """(2, N, C, S, S), drawn sample by sample: on a whole batch torchvision draws one set of parameters for all."""
    return torch.stack([torch.stack([transform(x) for x in x_NCHW]) for _ in range(2)])


def kornia_transform(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.nn.Module:
    """One view of a batch, parameters drawn per sample."""
    import kornia.augmentation as K

    return K.AugmentationSequential(
        K.RandomResizedCrop((SIZE, SIZE), scale=SCALE, ratio=RATIO), K.RandomHorizontalFlip(), K.RandomVerticalFlip(),
        K.RandomGaussianBlur((3, 3), SIGMA, p=0.5), K.Normalize(torch.tensor(mean), torch.tensor(std)),
        data_keys=["input"],
    )  # fmt: skip


def twice(x_NCHW: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Both views by a transform of batches."""
    with torch.no_grad():
        return torch.stack([transform(x_NCHW), transform(x_NCHW)])


def run(bench: Bench, folder: Path) -> None:
    """Crop error first; then twelve bands; then RGB."""
    bench.gate("crop error", crop_error(bench.device))
    _twelve_bands(bench)
    _rgb(bench)


def crop_error(device: str) -> float:
    """Largest difference of our crop from torchvision's on float64, for inputs of full scale 1."""
    from torchvision.transforms.v2 import functional

    draws = Draws(0, 0, 0, torch.arange(32))
    boxes = geo.random_boxes(draws, 120, 120, SCALE, RATIO)
    x = stacked(native_batch(32))
    x = (x / x.max()).to(device)
    views = Views(AugmentSpec(name="crop", crop_scale=SCALE, crop_ratio=RATIO), [(S2_L2A, 120, 120)], bands=S2_L2A,
                  scale=1.0, offset=0.0, mean_C=[0.0] * 12, std_C=[1.0] * 12, image_size=SIZE, num_views=1)  # fmt: skip
    found = views([x], torch.arange(32, device=device), 0)[0].double().cpu()
    error = 0.0
    for n in range(32):
        box = [int(side[n]) for side in (boxes.top, boxes.left, boxes.height, boxes.width)]
        truth = functional.resized_crop(x[n].double().cpu(), *box, [SIZE, SIZE], antialias=True)
        error = max(error, (found[n] - truth).abs().max().item())
    return error


def _twelve_bands(bench: Bench) -> None:
    count = bench.size(64, 8) if bench.device == "cpu" else 512
    groups = [group.to(bench.device) for group in native_batch(count)]
    x = stacked(groups)
    layout = [(group.bands, group.height, group.width) for group in GROUPS]
    whole, single = [(S2_L2A, 120, 120)], torchvision_transform()
    names = ("ours, same input", "ours, native integers", "torchvision, sample by sample", "Kornia, batch")
    tasks = {
        names[0]: Task(2 * count, ours([x], whole, 1.0, GEOMETRIC)),
        names[1]: Task(2 * count, ours(groups, layout, 10_000.0, GEOMETRIC)),
        names[2]: Task(2 * count, lambda: per_sample(x, single)),
    }
    if bench.can(GATES[1].name):
        batch = kornia_transform().to(bench.device)
        tasks[names[3]] = Task(2 * count, lambda: twice(x, batch))
    times = bench.time(tasks, rounds=2 * bench.rounds - 1)
    bench.gate(GATES[0].name, ratios(times, names[2], names[0]))
    bench.figure("two views, native integers / torchvision", ratios(times, names[2], names[1]), "x faster")
    if names[3] in times:
        bench.gate(GATES[1].name, ratios(times, names[3], names[0]))
        bench.figure("two views, native integers / Kornia", ratios(times, names[3], names[1]), "x faster")
    bench.figure("two views, native integers, views a second", [1 / t for t in times[names[1]]], "views/s")


def lightly_recipe() -> AugmentSpec:
    """lightly's SimCLRTransform at 64 px in our terms: its jitter is .8 .8 .8 .2, its blur from 0.1 to 2."""
    colour = RgbSpec(jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2)
    return AugmentSpec(name="lightly", eval="resize", crop_scale=(0.08, 1.0), flip_horizontal=0.5, blur=0.5,
                       blur_kernel=7, blur_sigma=SIGMA, rgb=colour)  # fmt: skip


def rgb_views(count: int, device: str) -> tuple[np.ndarray, Views, list[Tensor]]:
    """Display images (N, 64, 64, 3) uint8 of true colours, our views of them, and the groups these take."""
    groups = native_batch(count)
    rgb = groups[0][:, [2, 1, 0], 28:92, 28:92].float() / 3000 * 255
    pixels = rgb.clamp(0, 255).round().to(torch.uint8)
    names = ("red", "green", "blue")
    views = Views(lightly_recipe(), [(names, 64, 64)], bands=names, scale=255.0, offset=0.0,
                  mean_C=[0.485, 0.456, 0.406], std_C=[0.229, 0.224, 0.225], image_size=SIZE)  # fmt: skip
    return pixels.permute(0, 2, 3, 1).contiguous().numpy(), views, [pixels.to(device)]


def _rgb(bench: Bench) -> None:
    """lightly's transform takes PIL images one by one; both sides get 64 px RGB."""
    if Gate("", 0, ">=", "", "", ("lightly",)).absent():
        return
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    count = bench.size(64, 8)
    pixels, views, groups = rgb_views(count, bench.device)
    images, transform = [Image.fromarray(image) for image in pixels], SimCLRTransform(input_size=SIZE)
    rows, epoch = torch.arange(count, device=bench.device), iter(range(10**9))
    names = ("ours, RGB", "lightly SimCLRTransform, RGB")
    times = bench.time({
        names[0]: Task(2 * count, lambda: views(groups, rows, next(epoch))),
        names[1]: Task(2 * count, lambda: [transform(image) for image in images]),
    })  # fmt: skip
    bench.figure("two RGB views / lightly SimCLRTransform", ratios(times, names[1], names[0]), "x faster")


if __name__ == "__main__":
    harness.main("views", __doc__, GATES, run)

"""Point spread, coarser pixels, and bands that do not lie on each other. Lengths are in pixels of the finest group."""

# N patches, C bands, H x W pixels

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.augment.draws import Draws
from ssl_sat.evaluation.corruptions.scene import Corruption, Scene
from ssl_sat.evaluation.corruptions.spec import BlurSpec, MisregistrationSpec, ResampleSpec

_REACH = 4  # standard deviations of the kernel that are kept


def blur(spec: BlurSpec) -> Corruption:
    """Convolution with a sampled Gaussian of sum 1, borders reflected; nothing is drawn."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        height = scene.size[0]
        return scene.map(lambda x, at: blurred(x, spec.levels[severity - 1] * x.shape[2] / height))

    return corrupt


def blurred(x_NCHW: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of standard deviation `sigma` in pixels."""
    for dim in (2, 3):
        reach = min(math.ceil(_REACH * sigma), x_NCHW.shape[dim] - 1)
        taps_T = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma).square())
        taps_T = (taps_T / taps_T.sum()).to(x_NCHW)
        x_NCHW = _along(x_NCHW, taps_T, dim, reach)
    return x_NCHW


def _along(x_NCHW: Tensor, taps_T: Tensor, dim: int, reach: int) -> Tensor:
    pad = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
    shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
    n, c = x_NCHW.shape[:2]
    padded = F.pad(x_NCHW, pad, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, taps_T.view(shape)).view(n, c, *x_NCHW.shape[2:])


def resample(spec: ResampleSpec) -> Corruption:
    """Down with an antialiased bilinear filter, up again by bilinear interpolation; nothing is drawn.

    A group that is as coarse already stays as it is.
    """

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        coarse = tuple(max(2, round(side / spec.levels[severity - 1])) for side in scene.size)

        def change(x_NCHW: Tensor, at: int) -> Tensor:
            if x_NCHW.shape[2] <= coarse[0]:
                return x_NCHW
            small = F.interpolate(x_NCHW, size=coarse, mode="bilinear", antialias=True)
            return F.interpolate(small, size=tuple(x_NCHW.shape[2:]), mode="bilinear")

        return scene.map(change)

    return corrupt


def misregistration(spec: MisregistrationSpec) -> Corruption:
    """Every band moves by the same distance in a direction of its own, by bilinear interpolation.

    Fractions of a pixel smooth a little as well, as a resampled product does. Borders are reflected.
    """

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        height = scene.size[0]

        def change(x_NCHW: Tensor, at: int) -> Tensor:
            angle_NC = draws.uniform(f"direction-{at}", x_NCHW.shape[1], high=2 * math.pi)
            distance = spec.levels[severity - 1] * x_NCHW.shape[2] / height
            return shifted(x_NCHW, distance * angle_NC.sin(), distance * angle_NC.cos())

        return scene.map(change)

    return corrupt


def shifted(x_NCHW: Tensor, down_NC: Tensor, right_NC: Tensor) -> Tensor:
    """Each band moved by so many pixels down and to the right: y(h, w) = x(h - down, w - right)."""
    n, c, height, width = x_NCHW.shape
    rows = torch.arange(height, device=x_NCHW.device) + 0.5
    columns = torch.arange(width, device=x_NCHW.device) + 0.5
    y = 2 * (rows[None, :] - down_NC.flatten()[:, None]) / height - 1
    x = 2 * (columns[None, :] - right_NC.flatten()[:, None]) / width - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    flat = x_NCHW.reshape(n * c, 1, height, width)
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.view(n, c, height, width)

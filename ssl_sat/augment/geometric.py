"""Crops, resizing, flips, right angles and blur as matrices: Y = W_y X W_x^T, per sample, for a whole batch.

Everything separable is a matrix, so a patch goes from its native resolution to the view in two batched matrix
products, and bands are never upsampled before the crop. The kernel is torchvision's antialiased triangle, masked to
the crop box and renormalised: the result equals `resized_crop(antialias=True)`.

Legend: N patches, C bands, H x W pixels in, S x S pixels out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws

TRIES = 10  # as torchvision's RandomResizedCrop


class Boxes(NamedTuple):
    """Crop boxes in pixels of the finest grid, one per sample, float32."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def random_boxes(
    draws: Draws, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Boxes:
    """Draw boxes by torchvision's rule: share of area uniform, log of the aspect uniform, whole pixels, ten tries.

    Where no try fits, the largest central box with an allowed aspect is taken, as there.
    """
    area = draws.uniform("crop-area", TRIES, low=scale[0], high=scale[1]) * (height * width)
    aspect = draws.uniform("crop-aspect", TRIES, low=math.log(ratio[0]), high=math.log(ratio[1])).exp()
    wide, high = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    any_fits = fits.any(1)
    w_N = torch.where(any_fits, wide.gather(1, first)[:, 0], float(min(width, round(height * ratio[1]))))
    h_N = torch.where(any_fits, high.gather(1, first)[:, 0], float(min(height, round(width / ratio[0]))))
    free_y, free_x = height - h_N, width - w_N
    top = (draws.uniform("crop-top") * (free_y + 1)).floor().clamp(max=free_y)
    left = (draws.uniform("crop-left") * (free_x + 1)).floor().clamp(max=free_x)
    top, left = torch.where(any_fits, top, (free_y / 2).floor()), torch.where(any_fits, left, (free_x / 2).floor())
    return Boxes(top, left, h_N, w_N)


def evaluation_side(height: int, width: int, image_size: int, evaluation: str) -> int:
    """Pixels of the finest grid that the view of evaluation spans: image_size where it may and can crop."""
    smaller = min(height, width)
    return image_size if evaluation == "crop" and smaller >= image_size else smaller


def center_boxes(rows_N: Tensor, height: int, width: int, image_size: int, evaluation: str) -> Boxes:
    """The same central square for every sample."""
    side = evaluation_side(height, width, image_size, evaluation)
    filled = [
        torch.full(rows_N.shape, float(v), device=rows_N.device) for v in ((height - side) // 2, (width - side) // 2)
    ]
    sides = torch.full(rows_N.shape, float(side), device=rows_N.device)
    return Boxes(filled[0], filled[1], sides, sides)


def gsd_out(gsd_m: float, height: int, width: int, image_size: int, evaluation: str) -> float:
    """Ground sampling distance in metres that the encoder sees in the view of evaluation.

    `gsd_m` is that of the finest grid, `height` and `width` the patch on it. BigEarthNet resized from 120 to 64 px
    gives 18.75 m; cropping 64 of 120 keeps 10 m.
    """
    return gsd_m * evaluation_side(height, width, image_size, evaluation) / image_size


def resample_matrix(start_N: Tensor, length_N: Tensor, size_in: int, size_out: int) -> Tensor:
    """Return (N, size_out, size_in): the rows that resize pixels start ... start + length to size_out samples.

    Fractional boxes, as a coarse band's share of a box on the finest grid, take the pixels they touch.
    """
    step = (length_N / size_out)[:, None, None]
    pixel = torch.arange(size_in, device=start_N.device, dtype=torch.float32)
    sample = torch.arange(size_out, device=start_N.device, dtype=torch.float32) + 0.5
    offset = (pixel - start_N[:, None])[:, None, :] + 0.5  # pixel centres, from the start of the box
    weight = (1.0 - (offset - step * sample[None, :, None]).abs() / step.clamp(min=1.0)).clamp(min=0.0)
    inside = (pixel + 1 - start_N[:, None] > 1e-3) & (pixel - (start_N + length_N)[:, None] < -1e-3)
    weight = weight * inside[:, None, :]
    return weight / weight.sum(-1, keepdim=True)


def flip_rows(weight_NSX: Tensor, flip_N: Tensor) -> Tensor:
    """Reverse the output rows of the marked samples, which mirrors the view along that axis."""
    return torch.where(flip_N[:, None, None], weight_NSX.flip(1), weight_NSX)


def blur_taps(sigma_N: Tensor, apply_N: Tensor, kernel: int) -> Tensor:
    """Return (N, kernel): the weights of a Gaussian, of which only the middle one is not zero where not applied."""
    radius = kernel // 2
    tap = torch.arange(-radius, radius + 1, device=sigma_N.device, dtype=torch.float32)
    gauss = torch.exp(-0.5 * (tap / sigma_N[:, None]) ** 2)
    return torch.where(apply_N[:, None], gauss / gauss.sum(1, keepdim=True), (tap == 0).float())


def blur_matrix(taps_NT: Tensor, size: int) -> Tensor:
    """Return (N, size, size): the taps around every sample, with reflected borders."""
    radius = taps_NT.shape[1] // 2
    position = torch.arange(size, device=taps_NT.device)
    source = (position[:, None] + torch.arange(-radius, radius + 1, device=taps_NT.device)).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    reflected = torch.nn.functional.one_hot(source, size).float()  # (size, taps, size)
    return torch.einsum("nt,ots->nos", taps_NT, reflected)


def separable(x_NCHW: Tensor, rows_NSH: Tensor, columns_NSW: Tensor) -> Tensor:
    """Return W_y X W_x^T, (N, C, S, S)."""
    n, c, h, w = x_NCHW.shape
    across = torch.bmm(x_NCHW.reshape(n, c * h, w), columns_NSW.transpose(1, 2))
    return torch.matmul(rows_NSH[:, None], across.view(n, c, h, -1))


def turn_flips(turns_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (flip rows, flip columns, then transpose) that equal torch.rot90 by `turns_N` right angles."""
    return (turns_N == 2) | (turns_N == 3), (turns_N == 1) | (turns_N == 2), turns_N % 2 == 1

"""Radiometry in reflectance. All that is linear in the bands folds, with the normalisation, into one affine map.

Standardised values are never clipped: peers that clip them to [0, 1] make a quarter of all views constant.

Legend: N patches, C bands, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.bands import wavelengths_nm


def jitter(spec: AugmentSpec, draws: Draws, mean_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Draw gain and offset per band, one brightness and one contrast: r -> gain_NC * r + offset_NC.

    `mean_NC` is each band's mean reflectance over the view, about which the contrast acts.
    """
    bands = mean_NC.shape[1]
    gain_NC = draws.uniform("gain", bands, low=1 - spec.gain, high=1 + spec.gain)
    offset_NC = draws.uniform("offset", bands, low=-spec.offset, high=spec.offset)
    brightness = draws.uniform("brightness", 1, low=1 - spec.brightness, high=1 + spec.brightness)
    contrast = draws.uniform("contrast", 1, low=1 - spec.contrast, high=1 + spec.contrast)
    gain_NC, offset_NC = gain_NC * brightness, offset_NC * brightness
    offset_NC = contrast * offset_NC + (1 - contrast) * (gain_NC * mean_NC + offset_NC)
    applied = draws.chance("jitter", spec.jitter)[:, None]
    return torch.where(applied, contrast * gain_NC, 1.0), torch.where(applied, offset_NC, 0.0)


def neighbour_matrix(bands: Sequence[str]) -> Tensor:
    """Return (C, C): each band as the mean of its neighbours in wavelength; the outermost have one."""
    wavelengths = wavelengths_nm(bands)
    order = sorted(range(len(bands)), key=lambda k: wavelengths[k])
    matrix = torch.zeros(len(bands), len(bands))
    for rank, band in enumerate(order):
        beside = [order[k] for k in (rank - 1, rank + 1) if 0 <= k < len(order)] or [band]
        for other in beside:
            matrix[band, other] += 1.0 / len(beside)
    return matrix


def smoothing_matrix(spec: AugmentSpec, draws: Draws, neighbours_CC: Tensor) -> Tensor:
    """Draw (N, C, C): (1 - a) I + a * neighbours, a uniform up to smoothing_share, the identity where not applied."""
    share = draws.uniform("smoothing-share", high=spec.smoothing_share)
    share = torch.where(draws.chance("smoothing", spec.smoothing), share, 0.0)[:, None, None]
    return (1 - share) * torch.eye(len(neighbours_CC), device=share.device) + share * neighbours_CC


def affine(y_NCSS: Tensor, gain_NC: Tensor, offset_NC: Tensor, mixing_NCC: Tensor | None) -> Tensor:
    """Return mixing @ (gain * y + offset) over bands, in place where nothing is mixed."""
    if mixing_NCC is None:
        return y_NCSS.mul_(gain_NC[:, :, None, None]).add_(offset_NC[:, :, None, None])
    constant = torch.bmm(mixing_NCC, offset_NC[:, :, None])
    mixed = torch.baddbmm(constant, mixing_NCC * gain_NC[:, None, :], y_NCSS.flatten(2))
    return mixed.view_as(y_NCSS)


def keep_bands(draws: Draws, probability: float, bands: int) -> Tensor:
    """Draw (N, C): 0 for dropped bands; the band with the largest draw always stays."""
    drawn = draws.uniform("band-drop", bands)
    return ((drawn >= probability) | (drawn == drawn.amax(1, keepdim=True))).float()


@lru_cache(maxsize=8)
def noise_table(device: torch.device) -> Tensor:
    """Return the 2^21 fixed standard-normal numbers that fields of noise are cut from (8 MiB)."""
    return Draws(0, 0, "table", torch.zeros(1, dtype=torch.int64, device=device)).normal("noise-table", 1 << 21)[0]


def add_noise(x_NCSS: Tensor, draws: Draws, probability: float, sigma_C: Tensor, table: Tensor | None = None) -> Tensor:
    """Add white noise with a standard deviation per band to the drawn samples.

    Each sample's field is a stretch of one table from a drawn place, with a drawn sign: a fresh hash for every pixel
    would cost more than all the rest of a view. table: `noise_table` of the device, where it is at hand.
    """
    amount_NC = draws.chance("noise", probability)[:, None] * sigma_C
    amount_NC = torch.where(draws.chance("noise-sign", 0.5)[:, None], amount_NC, -amount_NC)
    table = noise_table(x_NCSS.device) if table is None else table
    stretches = table.unfold(0, x_NCSS[0].numel(), 1 << 4)
    field = stretches.index_select(0, draws.integers("noise-place", len(stretches))).view_as(x_NCSS)
    return x_NCSS.addcmul_(field, amount_NC[:, :, None, None])


def cut_out(x_NCSS: Tensor, draws: Draws, probability: float, side: int) -> Tensor:
    """Set one square of the drawn samples to 0, the bands' mean; it lies wholly inside the view."""
    size = x_NCSS.shape[-1]
    side = min(side, size - 1)
    position = torch.arange(size, device=x_NCSS.device)
    top = draws.integers("cutout-top", size - side + 1)[:, None]
    left = draws.integers("cutout-left", size - side + 1)[:, None]
    rows, columns = ((position >= first) & (position < first + side) for first in (top, left))
    hole = rows[:, :, None] & columns[:, None, :] & draws.chance("cutout", probability)[:, None, None]
    return x_NCSS.masked_fill_(hole[:, None], 0.0)

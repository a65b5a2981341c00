"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) with keyed draws: nothing to save, the same on any devices.

A patch's partner is its neighbour in the batch, which is in random order: first with second, third with fourth. Where
every device's share of a batch is even, several devices mix the pairs that one would; a last patch without a partner
stays as it is. Shares, boxes and choices depend on (seed, epoch, sample) alone, as views do.

Legend: N patches, C bands, H rows, W columns, K classes.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.training.finetune_spec import MixSpec

_STEPS = 1 << 14  # of the table of a Beta distribution


def mix(x_NCHW: Tensor, target_NK: Tensor, spec: MixSpec, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return mixed patches and targets; `draws` are of the batch's samples."""
    count = len(x_NCHW)
    partner_N = _partners(count, x_NCHW.device)
    mixed_N = draws.chance("mix", spec.probability) & (partner_N != torch.arange(count, device=x_NCHW.device))
    cut_N = _cuts(spec, draws)
    shown_N = torch.where(cut_N, _share(spec.cutmix, draws, "cutmix"), _share(spec.mixup, draws, "mixup"))
    own_N = torch.where(mixed_N, shown_N, 1.0)
    inside_NHW = _box(own_N, draws, *x_NCHW.shape[2:]) & cut_N[:, None, None] & mixed_N[:, None, None]
    own_N = torch.where(cut_N & mixed_N, 1 - inside_NHW.float().mean((1, 2)), own_N)
    blend_N = torch.where(cut_N, 1.0, own_N)[:, None, None, None]
    other_NCHW = x_NCHW[partner_N]
    x_NCHW = torch.where(inside_NHW[:, None], other_NCHW, blend_N * x_NCHW + (1 - blend_N) * other_NCHW)
    return x_NCHW, own_N[:, None] * target_NK + (1 - own_N[:, None]) * target_NK[partner_N]


def _partners(count: int, device: torch.device) -> Tensor:
    """Neighbours: 1, 0, 3, 2, ...; the last of an odd number is its own."""
    at_N = torch.arange(count, device=device)
    partner_N = at_N ^ 1
    return torch.where(partner_N < count, partner_N, at_N)


def _cuts(spec: MixSpec, draws: Draws) -> Tensor:
    """Which patches are cut and not blended (N,)."""
    share = spec.switch if spec.mixup > 0 and spec.cutmix > 0 else float(spec.cutmix > 0)
    return draws.chance("mix-cut", share)


def _share(alpha: float, draws: Draws, purpose: str) -> Tensor:
    """A patch's own share (N,), from Beta(alpha, alpha); 1 for alpha 0."""
    uniform_N = draws.uniform(f"mix-{purpose}")
    if alpha == 0:
        return torch.ones_like(uniform_N)
    table = _table(alpha, uniform_N.device)
    at_N = uniform_N * _STEPS
    low_N = at_N.long().clamp_max(_STEPS - 1)
    return torch.lerp(table[low_N], table[low_N + 1], at_N - low_N)


@functools.cache
def beta_quantiles(alpha: float) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at equal steps of probability, float32: a uniform draw looked up is one of it."""
    from scipy.stats import beta

    return beta.ppf(np.linspace(0, 1, _STEPS + 1), alpha, alpha).astype(np.float32)


@functools.cache
def _table(alpha: float, device: torch.device) -> Tensor:
    return torch.from_numpy(beta_quantiles(alpha)).to(device)


def _box(own_N: Tensor, draws: Draws, height: int, width: int) -> Tensor:
    """Boxes of area 1 - own, (N, H, W) bool, centred anywhere, cut off at the border (Yun et al. 2019, section 3.1)."""
    side_N = (1 - own_N).clamp_min(0).sqrt()
    inside = []
    for name, size in (("y", height), ("x", width)):
        centre_N = draws.uniform(f"mix-{name}") * size
        at_S = torch.arange(size, device=own_N.device) + 0.5
        inside.append((at_S - centre_N[:, None]).abs() < (side_N * size / 2)[:, None])
    return inside[0][:, :, None] & inside[1][:, None, :]

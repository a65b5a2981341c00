"""Shot and read noise, stripes, saturation, and the offset of processing baseline 04.00.

Noise       (Poisson(F x) + r z) / F: variance x / F + (r / F)^2;  F electrons at reflectance 1, r of read noise
Stripes     x (1 + s g_w) + 0.1 s h_w, g and h standard normal per band and column w: variance s^2 (x^2 + 0.01)
Saturation  min(x, p50 + f (p99 - p50)), the percentiles of each band over the training split
Offset      x + dn / 10000. Sentinel-2 products of baseline 04.00 (since 25 January 2022) hold dn = 10000 x + 1000
            (ESA, Sentinel-2 Products Specification, RADIO_ADD_OFFSET); whoever reads them as before sees 0.1 too much.
"""

# N patches, C bands, H x W pixels

from __future__ import annotations

import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.evaluation.corruptions.scene import Corruption, Scene
from ssl_sat.evaluation.corruptions.spec import NoiseSpec, OffsetSpec, SaturationSpec, StripesSpec

SENTINEL2_SCALE = 10_000.0  # digital numbers at reflectance 1
_FEW = 12.0  # mean counts below which the Poisson law is inverted exactly
_TERMS = 48  # of that inversion: P(X > 48) < 1e-14 at a mean of 12
_STRIPE_OFFSET = 0.1


def noise(spec: NoiseSpec) -> Corruption:
    """Photons are counted, then read."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        full = spec.levels[severity - 1]

        def change(x_NCHW: Tensor, at: int) -> Tensor:
            shape = x_NCHW.shape[1:]
            electrons = poisson(full * x_NCHW.clamp(min=0), draws.uniform(f"shot-{at}", *shape))
            return (electrons + spec.read_electrons * draws.normal(f"read-{at}", *shape)) / full

        return scene.map(change)

    return corrupt


def poisson(mean: Tensor, uniform: Tensor) -> Tensor:
    """Poisson counts of these means from uniform numbers in [0, 1): inversion, exact for small means.

    Above a mean of 12, the Cornish-Fisher expansion to third order, rounded; before that its variance is less by 1/12,
    which rounding adds (Sheppard's correction).
    """
    z = torch.special.ndtri((uniform + 2.0**-25).double())
    root = (mean.double() - 1 / 12).clamp(min=0).sqrt()
    large = mean + root * z + (z.square() - 1) / 6 + (z - z.pow(3)) / (72 * root.clamp(min=1))
    counts = large.round().clamp(min=0).float()
    small = mean < _FEW
    if small.any():
        counts[small] = _inverted(mean[small].double(), uniform[small].double())
    return counts


def _inverted(mean: Tensor, uniform: Tensor) -> Tensor:
    """The number of k with P(X <= k) <= u."""
    term = torch.exp(-mean)
    reached, counts = term.clone(), torch.zeros_like(mean)
    for k in range(1, _TERMS):
        counts += reached <= uniform
        term = term * mean / k
        reached += term
    return counts.float()


def stripes(spec: StripesSpec) -> Corruption:
    """Columns run along the flight path, which is taken to be upright."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        strength = spec.levels[severity - 1]

        def change(x_NCHW: Tensor, at: int) -> Tensor:
            columns = x_NCHW.shape[1], 1, x_NCHW.shape[3]
            gain, own = (draws.normal(f"stripe-{name}-{at}", *columns) for name in ("gain", "offset"))
            return x_NCHW * (1 + strength * gain) + _STRIPE_OFFSET * strength * own

        return scene.map(change)

    return corrupt


def saturation(spec: SaturationSpec) -> Corruption:
    """The ceiling sinks from the 99th percentile towards the median; nothing is drawn."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        def change(x_NCHW: Tensor, at: int) -> Tensor:
            median_C, high_C = scene.ceilings[at].unbind(1)
            ceiling_C = median_C + spec.levels[severity - 1] * (high_C - median_C)
            return torch.minimum(x_NCHW, ceiling_C[:, None, None])

        return scene.map(change)

    return corrupt


def offset(spec: OffsetSpec) -> Corruption:
    """The same number in every band and pixel; nothing is drawn."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        return scene.map(lambda x_NCHW, at: x_NCHW + spec.levels[severity - 1] / SENTINEL2_SCALE)

    return corrupt

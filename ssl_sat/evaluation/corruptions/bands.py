"""Bands without data, and bands in each other's place.

Which ones is drawn as one order a patch, so that a higher severity adds to those of the lower.
"""

# N patches, C bands

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.evaluation.corruptions.scene import Corruption, Scene
from ssl_sat.evaluation.corruptions.spec import BandDropSpec, BandSwapSpec
from ssl_sat.spec import ConfigError


def drop(spec: BandDropSpec) -> Corruption:
    """Some bands hold digital number 0, as a product does where there is no data."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        bands = sum(len(names) for names in scene.bands)
        _need_two(bands, spec.name)
        count = min(bands - 1, math.ceil(spec.levels[severity - 1] * bands))
        dropped_NC = _ranks(draws, "drop", bands) < count
        parts = dropped_NC.split([len(names) for names in scene.bands], dim=1)
        return scene.map(lambda x_NCHW, at: torch.where(parts[at][:, :, None, None], scene.empty, x_NCHW))

    return corrupt


def swap(spec: BandSwapSpec) -> Corruption:
    """The first k bands of a drawn order move on by one place in it; within each resolution."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        _need_two(max(len(names) for names in scene.bands), spec.name)

        def change(x_NCHW: Tensor, at: int) -> Tensor:
            source_NC = swapped(draws, scene.bands[at], spec.levels[severity - 1], at)
            return x_NCHW.gather(1, source_NC[:, :, None, None].expand_as(x_NCHW))

        return scene.map(change)

    return corrupt


def swapped(draws: Draws, bands: Sequence[str], share: float, group: int) -> Tensor:
    """Which band stands in each place, (N, C)."""
    count = len(bands)
    order_NC = _ranks(draws, f"swap-{group}", count).argsort(1)
    moved = 0 if count < 2 else min(count, max(2, math.ceil(share * count)))
    taken_NC = torch.cat([order_NC[:, :moved].roll(1, 1), order_NC[:, moved:]], 1)
    return torch.empty_like(order_NC).scatter_(1, order_NC, taken_NC)


def _ranks(draws: Draws, purpose: str, count: int) -> Tensor:
    """Each band's place (N, C) in an order that is drawn for every patch."""
    return draws.uniform(purpose, count).argsort(1).argsort(1)


def _need_two(count: int, name: str) -> None:
    if count < 2:
        raise ConfigError(f"corruptions: {name} needs at least two bands of one resolution; leave it out")

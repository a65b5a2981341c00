"""An exponential moving average of a network's weights: the target of BYOL and MoCo, or weights to evaluate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """A copy of a network that follows it: theta <- decay * theta + (1 - decay) * network, after each step.

    Being a submodule, it moves, saves and resumes with its owner; its parameters take no gradient, so optimisers leave
    them out. buffers: what becomes of those (running statistics): `copy` takes the network's, right for a target in
    eval mode; `own` leaves them to the target's own forward passes in train mode, as in BYOL and MoCo. Counters and
    other integers are copied, never averaged.
    """

    def __init__(self, network: nn.Module, buffers: Literal["copy", "own"] = "copy") -> None:
        super().__init__()
        if buffers not in ("copy", "own"):
            raise ValueError(f"buffers is copy or own, not {buffers!r}")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.buffers_from = buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the target's output, without gradient."""
        with torch.no_grad():
            return self.network(*args, **kwargs)

    @torch.no_grad()
    def update(self, network: nn.Module, decay: float) -> None:
        """Move towards `network`, of the same architecture. decay 1 keeps the target, 0 takes the network."""
        if not 0 <= decay <= 1:
            raise ValueError(f"a decay lies between 0 and 1, got {decay}")
        targets, sources = _matched(self.network.named_parameters, network.named_parameters)
        torch._foreach_lerp_(targets, sources, 1 - decay)
        if self.buffers_from == "copy":
            for target, source in zip(*_matched(self.network.named_buffers, network.named_buffers), strict=True):
                target.copy_(source)


def cosine_decay(step: int, total: int, base: float) -> float:
    """Return the decay after step `step` of `total`, from `base` at 0 to 1 at the end (Grill et al. 2020, section 3.3):
    1 - (1 - base) (cos(pi step / total) + 1) / 2.
    """
    return 1 - (1 - base) * (math.cos(math.pi * min(step / total, 1.0)) + 1) / 2


def _matched(targets: Callable[[], Any], sources: Callable[[], Any]) -> tuple[list[Tensor], list[Tensor]]:
    own, other = dict(targets()), dict(sources())
    if own.keys() != other.keys():
        raise ValueError(f"the network is of another architecture: {sorted(own.keys() ^ other.keys())[:5]}")
    return list(own.values()), [other[name] for name in own]

"""Counter-based random numbers: a draw is a hash of (seed, epoch, sample, view, purpose), with no state anywhere.

So 1 and 2 devices, any number of workers and any batch see the same views, and resuming needs nothing.
The hash is splitmix64 (Steele et al. 2014) in wrapping int64 arithmetic, exact on every device.

Legend: N patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_sat.seeding import key

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def _shifted(bits: Tensor, by: int) -> Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # a logical shift; int64's own keeps the sign


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _MIX1
    bits = (bits ^ _shifted(bits, 27)) * _MIX2
    return bits ^ _shifted(bits, 31)


class Draws:
    """Draws for the samples `rows_N` (int64, their identity) in one epoch and view; each `purpose` is a stream."""

    def __init__(self, seed: int, epoch: int, view: int | str, rows_N: Tensor) -> None:
        self.rows_N = rows_N
        self._seed, self._epoch, self._view = seed, epoch, view

    def bits(self, purpose: str, *shape: int) -> Tensor:
        """Return (N, *shape) int64 with 64 random bits each."""
        base = key(self._seed, "views", self._epoch, self._view, purpose)
        hashed_N = _mix(self.rows_N * _GOLDEN + base)
        count = math.prod(shape)
        counter = torch.arange(1, count + 1, device=hashed_N.device) * _GOLDEN
        return _mix(hashed_N[:, None] + counter).view(-1, *shape)

    def uniform(self, purpose: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (N, *shape) float32, uniform in [low, high), in steps of 2^-24 of the width."""
        unit = _shifted(self.bits(purpose, *shape), 40).float() * 2.0**-24
        return low + (high - low) * unit

    def chance(self, purpose: str, probability: float) -> Tensor:
        """Return (N,) bool, true with the given probability."""
        return self.uniform(purpose) < probability

    def integers(self, purpose: str, count: int) -> Tensor:
        """Return (N,) int64, uniform in 0 ... count - 1 (count up to 2^30; the bias is below count / 2^33)."""
        return (_shifted(self.bits(purpose), 31) * count) >> 33

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Return (N, *shape) float32, standard normal (Box-Muller on the two halves of the bits)."""
        bits = self.bits(purpose, *shape)
        radius = (-2.0 * ((_shifted(bits, 40).float() + 0.5) * 2.0**-24).log()).sqrt()
        return radius * (2.0 * math.pi * 2.0**-24 * (bits & 0xFFFFFF).float()).cos()

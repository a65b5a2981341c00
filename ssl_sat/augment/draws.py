"""Counter-based random numbers: a draw is a hash of (seed, epoch, sample, view, purpose), with no state anywhere.

So 1 and 2 devices, any number of workers and any batch see the same views, and resuming needs nothing.
The hash is splitmix64 (Steele et al. 2014) in wrapping int64 arithmetic, exact on every device.

Legend: N patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


PURPOSES = (
    "crop-area", "crop-aspect", "crop-top", "crop-left", "turns", "flip-y", "flip-x", "blur-sigma", "blur", "jitter",
    "gain", "offset", "brightness", "contrast", "smoothing-share", "smoothing", "noise", "noise-sign", "noise-place",
    "band-drop", "cutout-top", "cutout-left", "cutout", "rgb-brightness", "rgb-contrast", "rgb-saturation", "rgb-hue",
    "rgb-jitter", "rgb-grayscale", "rgb-solarise",
)  # fmt: skip


def keys_of(seed: int, epoch: int, views: Sequence[int | str]) -> Tensor:
    """Return (V, P) int64: the key of every purpose in every view, for code that is compiled once for all epochs."""
    return torch.tensor([[_key(seed, epoch, view, purpose) for purpose in PURPOSES] for view in views])


def _key(seed: int, epoch: int, view: int | str, purpose: str) -> int:
    return key(seed, "views", epoch, view, purpose)


class Draws:
    """Draws for the samples `rows_N` (int64, their identity) in one epoch and view; each `purpose` is a stream.

    What is drawn is kept, so that the parts of a batch share one drawing of small numbers: do not write into it.
    keys_P: a row of `keys_of`, which then stands for seed, epoch and view.
    """

    def __init__(self, seed: int, epoch: int, view: int | str, rows_N: Tensor, keys_P: Tensor | None = None) -> None:
        self._keys = keys_P
        self.rows_N, self._all_N = rows_N, rows_N
        self._seed, self._epoch, self._view = seed, epoch, view
        self._part: slice | None = None
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def part(self, part: slice) -> Draws:
        """Return the draws of some of the samples."""
        some = Draws(self._seed, self._epoch, self._view, self._all_N, self._keys)
        some.rows_N, some._part, some._kept = self._all_N[part], part, self._kept
        return some

    def _all(self) -> Draws:
        """The draws of all samples."""
        return self.part(slice(None)) if self._part is not None else self

    def _drawn(self, name: tuple[object, ...], draw: Callable[[], Tensor]) -> Tensor:
        """All samples' draws, made once; of them those of this part."""
        if name not in self._kept:
            self._kept[name] = draw()
        return self._kept[name] if self._part is None else self._kept[name][self._part]

    def bits(self, purpose: str, *shape: int) -> Tensor:
        """Return (N, *shape) int64 with 64 random bits each."""
        return self._drawn(("bits", purpose, shape), lambda: self._bits(purpose, *shape))

    def _bits(self, purpose: str, *shape: int) -> Tensor:
        if self._keys is None:
            base: int | Tensor = _key(self._seed, self._epoch, self._view, purpose)
        else:
            base = self._keys[PURPOSES.index(purpose)]
        hashed_N = _mix(self._all_N * _GOLDEN + base)
        count = math.prod(shape)
        counter = torch.arange(1, count + 1, device=hashed_N.device) * _GOLDEN
        return _mix(hashed_N[:, None] + counter).view(-1, *shape)

    def uniform(self, purpose: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (N, *shape) float32, uniform in [low, high), in steps of 2^-24 of the width."""

        def draw() -> Tensor:
            unit = _shifted(self._bits(purpose, *shape), 40).float() * 2.0**-24
            return low + (high - low) * unit

        return self._drawn(("uniform", purpose, shape, low, high), draw)

    def chance(self, purpose: str, probability: float) -> Tensor:
        """Return (N,) bool, true with the given probability."""
        return self._drawn(("chance", purpose, probability), lambda: self._all().uniform(purpose) < probability)

    def integers(self, purpose: str, count: int) -> Tensor:
        """Return (N,) int64, uniform in 0 ... count - 1 (count up to 2^30; the bias is below count / 2^33)."""
        return self._drawn(("integers", purpose, count), lambda: (_shifted(self._bits(purpose), 31) * count) >> 33)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Return (N, *shape) float32, standard normal (Box-Muller on the two halves of the bits)."""
        bits = self._bits(purpose, *shape) if self._part is None else self._bits(purpose, *shape)[self._part]
        radius = (-2.0 * ((_shifted(bits, 40).float() + 0.5) * 2.0**-24).log()).sqrt()
        return radius * (2.0 * math.pi * 2.0**-24 * (bits & 0xFFFFFF).float()).cos()

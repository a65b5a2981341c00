"""Records of a pack as reflectance and back, with what a corruption needs to know of them.

Reflectance = (dn - offset) / scale for reflectance packs. Display images have been stretched; the stretch is inverted:
reflectance = black + (white - black) * dn / 255. For EuroSAT RGB the stretch is linear, the same for all patches and
bands: a fit to 150 patches that are there with 13 bands as well gives black = -0.002 and white = 0.277 (correlation of
patch means .9996). What was clipped at white is lost, so that bright patches are corrupted as if they were at white.
For aerial images the same two numbers are an assumption, which is stated wherever such numbers are reported.
"""

# N patches, C bands of one resolution group, H x W pixels

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.data.packed import Pack

BLACK, WHITE = -0.002, 0.277  # reflectance that EuroSAT RGB shows as 0 and as 255
_RANGES = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True)
class Units:
    """reflectance = low + span * dn; records are whole numbers from 0 to `highest`, or floats (None)."""

    low: float
    span: float
    highest: int | None

    @classmethod
    def of(cls, pack: Pack, black: float = BLACK, white: float = WHITE) -> Units:
        """The units of a pack; `black` and `white` count for display images alone."""
        m = pack.manifest
        highest = _RANGES.get(m.dtype)
        if m.level == "display":
            return cls(black - (white - black) * m.offset / m.scale, (white - black) / m.scale, highest)
        return cls(-m.offset / m.scale, 1 / m.scale, highest)

    def reflectance(self, records: Tensor) -> Tensor:
        """Float32 reflectance of stored numbers; int16 holds the bits of uint16."""
        x = records.to(torch.int32) & 0xFFFF if records.dtype == torch.int16 else records
        return x.float() * self.span + self.low

    def records(self, reflectance: Tensor, like: Tensor) -> Tensor:
        """Stored numbers of the dtype of `like`: rounded half to even, clipped."""
        dn = (reflectance.double() - self.low) / self.span
        if self.highest is None:
            return dn.to(like.dtype)
        dn = dn.round().clamp(0, self.highest)
        return dn.to(torch.int32).to(like.dtype)  # int16 keeps the bits


@dataclass(frozen=True, eq=False)
class Scene:
    """Patches in reflectance, (N, C, H, W) a resolution group, with the names of the bands.

    level: L1C (top of atmosphere) or L2A (surface). empty: reflectance of a record of 0. ceilings: per group, each
    band's median and 99th percentile in reflectance, (C, 2).
    """

    groups: tuple[Tensor, ...]
    bands: tuple[tuple[str, ...], ...]
    level: str
    empty: float
    ceilings: tuple[Tensor, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the finest group."""
        height, width = max(tuple(group.shape[2:]) for group in self.groups)
        return int(height), int(width)

    def map(self, change: Callable[[Tensor, int], Tensor]) -> Scene:
        """The scene with every group changed: `change(x_NCHW, number of the group)`."""
        return replace(self, groups=tuple(change(group, at) for at, group in enumerate(self.groups)))


class Corruption(Protocol):
    """What a builder of the registry returns."""

    def __call__(self, scene: Scene, severity: int, draws: Draws) -> Scene:
        """Corrupt at severity 1 to 5."""
        ...


class Corrupter:
    """`corrupter(groups, rows_N) -> groups`: a batch's records, corrupted, as records of the same dtype."""

    def __init__(self, corruption: Corruption, name: str, severity: int, pack: Pack, units: Units, seed: int) -> None:
        self.corruption, self.name, self.severity, self.units, self.seed = corruption, name, severity, units, seed
        self._bands = tuple(tuple(group.bands) for group in pack.groups)
        # EuroSAT RGB was made from L1C; of a float or an unknown display image L1C is assumed
        self._level = "L2A" if pack.manifest.level == "L2A" else "L1C"
        self._ceilings = tuple(_ceilings(pack, group, units) for group in self._bands)

    def __call__(self, groups: Sequence[Tensor], rows_N: Tensor) -> tuple[Tensor, ...]:
        """Corrupted records of the patches `rows_N`, in the dtype of those given."""
        device = rows_N.device
        scene = Scene(
            tuple(self.units.reflectance(group) for group in groups),
            self._bands,
            self._level,
            self.units.low,
            tuple(ceiling.to(device) for ceiling in self._ceilings),
        )
        draws = Draws(self.seed, 0, f"corruption-{self.name}", rows_N)
        found = self.corruption(scene, self.severity, draws)
        return tuple(self.units.records(x, like) for x, like in zip(found.groups, groups, strict=True))


def _ceilings(pack: Pack, bands: Sequence[str], units: Units) -> Tensor:
    """Median and 99th percentile of each band, from the statistics of the training split, in reflectance."""
    m = pack.manifest
    values = torch.tensor([[pack.stats[name].p50, pack.stats[name].p99] for name in bands], dtype=torch.float64)
    return (units.low + units.span * (values * m.scale + m.offset)).float()

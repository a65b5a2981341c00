"""Multi-band arrays of one file each, described by the user's spec: the base of `npy` and `geotiff`."""

from __future__ import annotations

import abc
import os
from functools import cached_property

import numpy as np
from typing_extensions import override

from ssl_sat.data.sources.contract import Facts, Group, PatchRef, UnreadablePatch
from ssl_sat.data.sources.folders import FolderSource
from ssl_sat.data.spec import ArraySpec
from ssl_sat.spec import UserError

_SCALE = {"uint8": 255.0, "uint16": 10000.0, "float32": 1.0}


class ArraySource(FolderSource):
    """Patches (C, H, W) with stated bands. Size and dtype are those of the first readable patch, by id."""

    spec: ArraySpec

    @abc.abstractmethod
    def load(self, path: str) -> np.ndarray:
        """Return the file's array as (C, H, W) in its own dtype, or raise UnreadablePatch."""

    @cached_property
    @override
    def facts(self) -> Facts:
        spec, first = self.spec, self._first()
        group = Group(spec.bands, first.shape[1], first.shape[2], spec.gsd_m)
        dtype = storable(first).dtype.name
        decode: dict[str, str | int | None] = {"to_px": None, "filter": "none", "recompress": "none", "mode": dtype}
        scale = spec.scale if spec.scale is not None else _SCALE[dtype]
        return Facts(spec.sensor, spec.level, (group,), dtype, scale, spec.offset, decode,  # type: ignore[arg-type]
                     offset_basis="stated by data.offset")  # fmt: skip

    def _first(self) -> np.ndarray:
        reasons = []
        for ref in self.found:
            try:
                return self._checked(ref)
            except UnreadablePatch as reason:
                reasons.append(f"{ref.path}: {reason}")
        raise UserError(
            f"{self.spec.name}: none of the {len(reasons)} patches in '{self.root}' can be read as "
            f"{len(self.spec.bands)} bands ({', '.join(self.spec.bands)}). The first: {reasons[0]}. "
            "Check data.bands, and for .npy data.layout."
        )

    def _checked(self, ref: PatchRef) -> np.ndarray:
        pixels = self.load(os.path.join(self.root, ref.path))
        px = self.spec.patch_px
        if pixels.ndim != 3 or pixels.shape[0] != len(self.spec.bands):
            raise UnreadablePatch(f"shape {pixels.shape}, not ({len(self.spec.bands)}, H, W)")
        if px is not None and pixels.shape[1:] != (px, px):
            raise UnreadablePatch(f"{pixels.shape[2]}x{pixels.shape[1]} px, not {px}x{px}")
        return storable(pixels)

    @override
    def read(self, ref: PatchRef) -> list[np.ndarray]:
        pixels, (group,) = self._checked(ref), self.facts.groups
        if pixels.shape[1:] != (group.height, group.width):
            size = f"{pixels.shape[2]}x{pixels.shape[1]} px"
            raise UnreadablePatch(f"{size}, not {group.width}x{group.height} as the first patch")
        if pixels.dtype != self.facts.dtype:
            raise UnreadablePatch(f"dtype {pixels.dtype}, not {self.facts.dtype} as the first patch")
        return [pixels]


def storable(pixels: np.ndarray) -> np.ndarray:
    """Return the array as uint8, uint16 or float32; UnreadablePatch where that would change or hide a value.

    Wider integers are stored as uint16 when every value fits; float64 is rounded to float32; NaN and inf are refused.
    """
    kind = pixels.dtype.kind
    if kind == "f":
        values = pixels.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise UnreadablePatch(f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite")
        return values
    if pixels.dtype in (np.uint8, np.dtype(np.uint16)):
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if kind in "iu":
        if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
            raise UnreadablePatch(f"{pixels.dtype} values from {pixels.min()} to {pixels.max()} do not fit uint16")
        return pixels.astype(np.uint16)
    raise UnreadablePatch(f"dtype {pixels.dtype} is not numeric")

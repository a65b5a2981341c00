"""A folder of .npy patches whose bands and layout the user states."""

from __future__ import annotations

import os

import numpy as np
from typing_extensions import override

from ssl_sat.data.sources.arrays import ArraySource
from ssl_sat.data.sources.contract import UnreadablePatch
from ssl_sat.data.spec import NpySpec


def build(spec: NpySpec) -> Npy:
    """The source of a folder of .npy files."""
    return Npy(spec)


class Npy(ArraySource):
    """Arrays (C, H, W) or (H, W, C), as `layout` says; pickled objects are never loaded."""

    needs = "a folder of .npy patches"
    suffixes = (".npy",)
    spec: NpySpec

    @override
    def load(self, path: str) -> np.ndarray:
        try:
            pixels = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnreadablePatch(f"{os.path.basename(path)}: {reason}") from None
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 3:
            raise UnreadablePatch(f"{os.path.basename(path)}: {getattr(pixels, 'ndim', 0)} dimensions, not 3")
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if self.spec.layout == "channels_last" else pixels

"""Patches of a pack as pictures to look at."""

# N patches, S x S pixels

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.bands import find
from ssl_sat.data.packed import Pack
from ssl_sat.spec import ConfigError

_SHOWN = 0.277  # reflectance that is shown as white, as in EuroSAT's own pictures


def pictures(
    pack: Pack, rows_N: NDArray[np.int64], bands: Sequence[str], groups: Sequence[Tensor] | None = None
) -> NDArray[np.float32]:
    """(N, S, S, 3) in [0, 1]: red, green and blue where they are, else the first of `bands` in grey.

    groups: the records to show in place of those of the pack. Reflectance is shown on one fixed scale for all patches,
    so that a corruption can be seen; unscaled floats are stretched by patch.
    """
    groups = pack.batch(rows_N).groups if groups is None else groups
    layers = [_layer(pack, groups, name) for name in _shown_bands(pack, bands)]
    size = max(layer.shape[-1] for layer in layers)
    same = [F.interpolate(x[:, None], size=(size, size), mode="bilinear")[:, 0] for x in layers]
    x_NSS3 = torch.stack(same, -1)
    if pack.manifest.dtype == "float32":
        low, high = (torch.quantile(x_NSS3.flatten(1), q, dim=1)[:, None, None, None] for q in (0.01, 0.99))
        x_NSS3 = (x_NSS3 - low) / (high - low).clamp(min=1e-6)
    elif pack.manifest.level != "display":
        x_NSS3 = x_NSS3 / _SHOWN
    return x_NSS3.clamp(0, 1).numpy()


def _shown_bands(pack: Pack, bands: Sequence[str]) -> list[str]:
    try:
        found = [find(name, pack.bands) for name in ("red", "green", "blue")]
    except ConfigError:
        found = [None]
    if None in found:
        at = find(bands[0], pack.bands)
        return [pack.bands[0 if at is None else at]] * 3
    return [pack.bands[at] for at in found if at is not None]


def _layer(pack: Pack, groups: Sequence[Tensor], name: str) -> Tensor:
    """One band (N, H, W) in reflectance or display units."""
    for group, x_NCHW in zip(pack.groups, groups, strict=True):
        if name in group.bands:
            layer = x_NCHW[:, group.bands.index(name)].cpu()
            values = layer.to(torch.int32) & 0xFFFF if layer.dtype == torch.int16 else layer
            return (values.float() - pack.manifest.offset) / pack.manifest.scale
    raise ValueError(name)

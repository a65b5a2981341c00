"""First-layer filters moved to other bands, by name and wavelength.

Tiling RGB filters over 12 bands made 16 of 17 frozen results worse in a public benchmark; here every filter goes to
the band it was learnt on, or near it in wavelength. The size of the response is kept by the factor C_from / C_to of
Carreira & Zisserman (2017, section 2.1, inflated filters) and timm (adapt_input_conv), except where a band keeps its
own meaning (by_name).

Filters see normalised bands, not digital numbers: each band less its mean and by its deviation, whether it was
reflectance or a display value. Only then does a filter of one unit meet numbers of the size it was learnt on; weights
that were fed raw reflectance (SSL4EO-S12) are fed so again (`init_units`).

Legend: O filters, C bands, k kernel size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_sat.bands import find, wavelengths_nm

How = Literal["by_name", "by_wavelength", "mean", "random"]


def adapt_stem(
    weight_OCkk: Tensor, bands_from: Sequence[str], bands_to: Sequence[str], how: How, seed: int = 0
) -> Tensor:
    """Return the filters (O, len(bands_to), k, k) for other bands.

    by_name: a band keeps its filter exactly (also by common name: `red` from B04); a band the source has not seen
      starts at zero. No rescaling, so that the network's function of the shared bands does not change.
    by_wavelength: a band keeps its filter, an unseen one is interpolated linearly between its neighbours in wavelength
      (beyond the ends: the nearest filter). Times C_from / C_to, so that the response to an image that is equal in all
      bands, which strongly correlated bands resemble, keeps its size.
    mean: every band gets the mean filter times C_from / C_to; the response to an image equal in all bands is exact.
    random: normal filters with the source's standard deviation times sqrt(C_from / C_to), which keeps the variance of
      the response to independent bands; drawn from `seed`.
    """
    if weight_OCkk.shape[1] != len(bands_from):
        raise ValueError(f"filters have {weight_OCkk.shape[1]} channels for {len(bands_from)} bands {bands_from}")
    ratio = len(bands_from) / len(bands_to)
    if how == "random":
        generator = torch.Generator().manual_seed(seed)
        shape = (weight_OCkk.shape[0], len(bands_to), *weight_OCkk.shape[2:])
        drawn = torch.randn(shape, generator=generator) * weight_OCkk.float().std().item() * math.sqrt(ratio)
        return drawn.to(weight_OCkk)
    if how == "mean":
        return weight_OCkk.mean(1, keepdim=True).repeat(1, len(bands_to), 1, 1) * ratio
    if how not in ("by_name", "by_wavelength"):
        raise ValueError(f"how is by_name, by_wavelength, mean or random, not {how!r}")
    mixing_TC = _mixing(bands_from, bands_to, fill=how == "by_wavelength").to(weight_OCkk)
    adapted = torch.einsum("tc,ocij->otij", mixing_TC, weight_OCkk)
    return adapted * ratio if how == "by_wavelength" else adapted


def _mixing(bands_from: Sequence[str], bands_to: Sequence[str], fill: bool) -> Tensor:
    """Row per target band: the weights of the source bands in it."""
    mixing = torch.zeros(len(bands_to), len(bands_from), dtype=torch.float64)
    for row, name in enumerate(bands_to):
        at = find(name, bands_from)
        if at is not None:
            mixing[row, at] = 1.0
        elif fill:
            for column, share in _neighbours(wavelengths_nm([name])[0], wavelengths_nm(bands_from)):
                mixing[row, column] = share
    return mixing


def _neighbours(wanted_nm: float, present_nm: Sequence[float]) -> list[tuple[int, float]]:
    """Positions and shares of the one or two present wavelengths between which the wanted one lies."""
    order = sorted(range(len(present_nm)), key=lambda k: present_nm[k])
    below = [k for k in order if present_nm[k] <= wanted_nm]
    above = [k for k in order if present_nm[k] > wanted_nm]
    if not below or not above:
        return [(above[0] if above else below[-1], 1.0)]
    low, high = below[-1], above[0]
    share = (wanted_nm - present_nm[low]) / (present_nm[high] - present_nm[low])
    return [(low, 1.0 - share), (high, share)]


def stem_keys(encoder: nn.Module) -> list[str]:
    """State-dict keys of the convolutions that read the bands: timm's `first_conv`, else the first Conv2d.

    Raises ValueError where no convolution reads as many channels as the encoder has bands.
    """
    channels = len(encoder.bands)  # type: ignore[arg-type]
    trunk = getattr(encoder, "trunk", None)
    declared = (getattr(trunk, "default_cfg", None) or {}).get("first_conv") or ()
    names = [f"trunk.{name}" for name in ([declared] if isinstance(declared, str) else declared)]
    if not names:
        names = [name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)][:1]
    keys = [f"{name}.weight" for name in names]
    state = encoder.state_dict()
    wrong = [key for key in keys if key not in state or state[key].ndim != 4 or state[key].shape[1] != channels]
    if wrong or not keys:
        raise ValueError(f"no first convolution over {channels} bands found (looked at {keys})")
    return keys


def map_bands(
    state: Mapping[str, Tensor],
    keys: Sequence[str],
    bands_from: Sequence[str],
    bands_to: Sequence[str],
    how: How,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return a copy of an encoder's state whose first filters (`keys`, from stem_keys) read other bands."""
    adapted = dict(state)
    for key in keys:
        adapted[key] = adapt_stem(state[key], bands_from, bands_to, how, seed)
    return adapted

"""Colour operations on display images of red, green and blue, as torchvision's, but drawn per sample.

Bounds: 8-bit images stay within [0, 1], as in torchvision; reflectance shown as an image has no upper bound, so that
clouds do not become constant views.

Legend: N patches, 3 bands in the order red, green, blue, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.augment.spec import RgbSpec
from ssl_sat.bands import band
from ssl_sat.spec import ConfigError

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


def require_display_bands(bands: Sequence[str], recipe: str) -> None:
    """Raise ConfigError unless the bands are red, green and blue in this order."""
    if tuple(band(name).common_name for name in bands) != ("red", "green", "blue"):
        raise ConfigError(
            f"augment: the recipe '{recipe}' has RGB operations (colour jitter, grayscale, solarise), which mean "
            f"nothing on {', '.join(bands)}. Choose augment=simclr_ms, or bands=[B04,B03,B02]."
        )


def colour(x_N3SS: Tensor, spec: RgbSpec, draws: Draws, upper: float) -> Tensor:
    """Apply jitter, grayscale and solarise to display values, each with its own probability per sample."""
    factors = {
        name: draws.uniform(f"rgb-{name}", low=1 - amount, high=1 + amount)
        for name, amount in (
            ("brightness", spec.brightness),
            ("contrast", spec.contrast),
            ("saturation", spec.saturation),
        )
    }
    shift_N = draws.uniform("rgb-hue", low=-spec.hue, high=spec.hue)
    if spec.jitter:
        jittered = color_jitter(
            x_N3SS, factors["brightness"], factors["contrast"], factors["saturation"], shift_N, upper
        )
        x_N3SS = torch.where(_each(draws.chance("rgb-jitter", spec.jitter)), jittered, x_N3SS)
    if spec.grayscale:
        x_N3SS = torch.where(_each(draws.chance("rgb-grayscale", spec.grayscale)), luma(x_N3SS), x_N3SS)
    if spec.solarise:
        solarised = torch.where(x_N3SS >= 0.5, 1.0 - x_N3SS, x_N3SS)
        x_N3SS = torch.where(_each(draws.chance("rgb-solarise", spec.solarise)), solarised, x_N3SS)
    return x_N3SS


def color_jitter(
    x_N3SS: Tensor, brightness_N: Tensor, contrast_N: Tensor, saturation_N: Tensor, hue_N: Tensor, upper: float
) -> Tensor:
    """torchvision's adjust_brightness, _contrast, _saturation and _hue in this order, with one factor per sample."""
    x_N3SS = (x_N3SS * _each(brightness_N)).clamp(0.0, upper)
    x_N3SS = _blend(x_N3SS, luma(x_N3SS).mean((1, 2, 3), keepdim=True), contrast_N, upper)
    x_N3SS = _blend(x_N3SS, luma(x_N3SS), saturation_N, upper)
    return _turn_hue(x_N3SS, hue_N)


def luma(x_N3SS: Tensor) -> Tensor:
    """Return the grey value, (N, 1, S, S)."""
    red, green, blue = x_N3SS.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def _each(value_N: Tensor) -> Tensor:
    return value_N[:, None, None, None]


def _blend(x: Tensor, other: Tensor, factor_N: Tensor, upper: float) -> Tensor:
    factor = _each(factor_N)
    return (factor * x + (1.0 - factor) * other).clamp(0.0, upper)


def _turn_hue(x_N3SS: Tensor, shift_N: Tensor) -> Tensor:
    """Shift the hue in HSV; value and saturation stay."""
    red, green, blue = x_N3SS.unbind(1)
    value, low = x_N3SS.amax(1), x_N3SS.amin(1)
    span = value - low
    divisor = torch.where(span == 0, 1.0, span)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    hue = hue + 6.0 * shift_N[:, None, None]
    # f(n) = v - span * max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6: HSV to RGB without branches
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = torch.remainder(n + hue, 6.0)
        channels.append(value - span * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, 1)

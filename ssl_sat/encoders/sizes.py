"""Which image size an encoder takes: its own where none is asked for, and a clear error where one does not suit it.

Shapes are tried on torch's meta device, where a forward pass computes nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from ssl_sat.encoders import ENCODERS
from ssl_sat.spec import ConfigError, Spec


def own_image_size(spec: Any) -> int:
    """Pixels that an encoder takes by default: the study's 64, or what its published weights were trained at."""
    if spec.own_image_size is not None:
        return int(spec.own_image_size)
    import timm

    cfg = timm.get_pretrained_cfg(spec.model) if timm.is_model(spec.model) else None
    return int(cfg.input_size[-1]) if cfg is not None and cfg.input_size else 224


def check_image_size(spec: Spec, image_size: int) -> None:
    """ConfigError where images of this size do not pass through the encoder; it names one that does."""
    reason = _reason(spec, image_size)
    if reason is None:
        return
    label, own = getattr(spec, "model", None) or getattr(spec, "name", ""), own_image_size(spec)
    smaller = any(_reason(spec, size) is None for size in {image_size // 16 * 16, image_size // 2} - {0, image_size})
    if smaller or own <= image_size or _reason(spec, own) is not None:
        raise ConfigError(f"image_size={image_size} does not suit the encoder '{label}': {reason}. Its own is {own}.")
    least = _smallest(spec, image_size, own)
    raise ConfigError(
        f"image_size={image_size} is too small for the encoder '{label}', which needs {least} pixels; leave "
        f"image_size out for its own {own}, or choose another encoder."
    )


def _smallest(spec: Spec, too_small: int, enough: int) -> int:
    """The smallest size that passes, by halving."""
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if _reason(spec, middle) is None else (middle, enough)
    return enough


def _reason(spec: Spec, image_size: int) -> str | None:
    """Why an image of this size does not pass through the network, in torch's or timm's words; None where it does."""
    try:
        with torch.device("meta"):
            encoder = ENCODERS.build(spec, bands=("B04",), image_size=image_size, seed=0).eval()
            with torch.no_grad():
                encoder(torch.empty(1, 1, image_size, image_size))
    except NotImplementedError:  # an operation without shapes: the network itself will tell
        return None
    except (RuntimeError, AssertionError, ValueError, ZeroDivisionError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return None

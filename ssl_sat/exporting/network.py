"""What is exported: the encoder, with or without the step from pixel values to its normalised input.

Legend: N images, C bands, S image size, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_sat.training.model_io import ModelCard

SCALES = {"reflectance": 10_000.0, "display": 255.0, "float": 1.0}  # digital numbers of one, unless stated otherwise


class Deployed(nn.Module):
    """(N, C, S, S) to features (N, D): x is (x - shift) / gain per band, then the encoder.

    takes 'normalised': as the encoder reads it (no step). 'value': reflectance or display value. 'dn': digital
    numbers, value = (dn - offset) / scale.
    """

    shift: Tensor
    gain: Tensor

    def __init__(self, encoder: nn.Module, card: ModelCard, takes: str, scale: float, offset: float) -> None:
        super().__init__()
        self.encoder, self.takes = encoder, takes
        shift_C, gain_C = input_map(card, takes, scale, offset)
        self.register_buffer("shift", torch.tensor(shift_C, dtype=torch.float32)[:, None, None])
        self.register_buffer("gain", torch.tensor(gain_C, dtype=torch.float32)[:, None, None])

    def forward(self, x_NCSS: Tensor) -> Tensor:
        """Return the features."""
        if self.takes == "normalised":
            return self.encoder(x_NCSS)
        return self.encoder((x_NCSS - self.shift) / self.gain)


def input_map(card: ModelCard, takes: str, scale: float, offset: float) -> tuple[list[float], list[float]]:
    """Shift and gain per band that turn what the graph takes into what the encoder reads."""
    mean, std = card.normalisation.of(card.bands)
    if takes == "normalised":
        return [0.0] * len(mean), [1.0] * len(mean)
    if takes == "value":
        return mean, std
    return [offset + scale * m for m in mean], [scale * s for s in std]


def probes(card: ModelCard, takes: str, scale: float, offset: float, count: int = 3) -> tuple[Tensor, Tensor]:
    """Random images as the graph takes them, and the same as the encoder reads them, in float64 between the two."""
    shape = (count, len(card.bands), card.image_size, card.image_size)
    read = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    shift, gain = (torch.tensor(v).double()[:, None, None] for v in input_map(card, takes, scale, offset))
    taken = (read * gain + shift).float()
    return taken, ((taken.double() - shift) / gain).float()


def features(encoder: Any, x_NCSS: Tensor) -> Tensor:
    """Our own features of normalised images."""
    with torch.inference_mode():
        return encoder.eval()(x_NCSS)

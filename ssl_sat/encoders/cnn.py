"""The study's custom CNN: three blocks of two 3x3 convolutions, global average pool, 256 features.

Convolutions carry a bias although batch norm follows: so the count of 1,147,200 parameters at three bands comes out.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from ssl_sat.encoders.contract import Encoder, seeded
from ssl_sat.encoders.spec import CnnSpec

CHANNELS = (64, 128, 256)


def _block(channels_in: int, channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),
    )


class CNN(Encoder):
    """Blocks of 64, 128 and 256 channels, each halving the image; any image size from 8 px."""

    embed_dim = CHANNELS[-1]

    def __init__(self, bands: tuple[str, ...], image_size: int, dropout: float) -> None:
        super().__init__()
        self.bands, self.image_size = tuple(bands), image_size
        widths = (len(bands), *CHANNELS)
        self.blocks = nn.ModuleList(_block(a, b, dropout) for a, b in pairwise(widths))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, 256)."""
        for block in self.blocks:
            x_NCHW = block(x_NCHW)
        return x_NCHW.mean((2, 3))

    @property
    def stages(self) -> list[tuple[str, nn.Module]]:
        """block1, block2, block3."""
        return [(f"block{k + 1}", block) for k, block in enumerate(self.blocks)]


def build(spec: CnnSpec, *, bands: tuple[str, ...], image_size: int, seed: int) -> CNN:
    """Build with weights drawn from `seed` (torch's default initialisation)."""
    with seeded(seed):
        return CNN(bands, image_size, spec.dropout)

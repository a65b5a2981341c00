"""GoogLeNet (Szegedy et al. 2015, with batch norm) of torchvision, as timm has none; no auxiliary classifiers."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import GoogLeNet as TorchvisionGoogLeNet

from ssl_sat.encoders.contract import Encoder, seeded
from ssl_sat.encoders.spec import GoogLeNetSpec
from ssl_sat.encoders.stages import stages_of


class GoogLeNet(Encoder):
    """stem, inception3, inception4, inception5; 1,024 features; any image size from 15 px."""

    embed_dim = 1024

    def __init__(self, bands: tuple[str, ...], image_size: int, dropout: float) -> None:
        super().__init__()
        self.bands, self.image_size = tuple(bands), image_size
        trunk = TorchvisionGoogLeNet(aux_logits=False, transform_input=False, init_weights=False, dropout=dropout)
        trunk.conv1.conv = nn.Conv2d(len(bands), 64, 7, stride=2, padding=3, bias=False)
        trunk.fc = nn.Identity()  # type: ignore[assignment]
        self.trunk = trunk

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return (N, 1024)."""
        return self.trunk(x_NCHW)

    @property
    def stages(self) -> list[tuple[str, nn.Module]]:
        """stem, inception3, inception4, inception5."""
        return stages_of(self.trunk)


def build(spec: GoogLeNetSpec, *, bands: tuple[str, ...], image_size: int, seed: int) -> GoogLeNet:
    """Build with weights drawn from `seed` (torch's default initialisation)."""
    with seeded(seed):
        return GoogLeNet(bands, image_size, spec.dropout)

"""A trained model taken up again in Python: logits, features, maps of every stage.

    model = ssl_sat.load("outputs/finetune/latest")        # or a pretrain artifact, or an export's folder
    x = model.normalise(reflectance_NCHW)                  # channels are model.bands, in that order
    model.features(x)                                      # (N, D), pooled
    model.probabilities(x)                                 # (N, K), classes are model.classes
    maps = model.get_feature_extractor(["layer2", "layer4"])
    maps(x)["layer4"]                                      # (N, 512, 2, 2) for a ResNet-18 at 64 px; see maps.shapes
"""  # fmt: skip

# N images, C bands or channels, H rows, W columns, D features, K classes, T tokens

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_sat.spec import ConfigError, MissingInput, UserError, suggest
from ssl_sat.training.model_io import ModelCard, load_card, load_classifier, load_encoder


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load an artifact of pretrain or finetune, or the folder of an export, in eval mode on the CPU.

    Raises MissingInput when there is none, UserError when its weights do not fit its card.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise MissingInput(f"no folder '{path}'. Give an artifact, as in ssl_sat.load('outputs/finetune/latest').")
    card = load_card(folder)
    if not (folder / "model.safetensors").is_file():
        raise MissingInput(f"{path} has a model.json and no model.safetensors; export with formats=[safetensors].")
    if card.classes is None:
        encoder, card = load_encoder(folder)
        return Model(encoder, None, card).eval()
    classifier, card = load_classifier(folder)
    return Model(classifier.encoder, classifier.head, card).eval()


class Model(nn.Module):
    """An encoder, and a head where it was fine-tuned. Images are normalised (N, C, H, W), channels are `bands`."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Any, head: nn.Module | None, card: ModelCard) -> None:
        super().__init__()
        self.encoder, self.head, self.card = encoder, head, card
        mean_C, std_C = card.normalisation.of(card.bands)
        self.register_buffer("mean", torch.tensor(mean_C)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std_C)[:, None, None], persistent=False)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the channels, in their order."""
        return self.card.bands

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for an encoder without a head."""
        return tuple(self.card.classes or ())

    @property
    def image_size(self) -> int:
        """Pixels of a side that it was trained at."""
        return self.card.image_size

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the encoder's stages, input to output."""
        return tuple(name for name, _ in self.encoder.stages)

    def normalise(self, values_NCHW: Tensor) -> Tensor:
        """(value - mean) / std per band; values are reflectance or display values (8 bit / 255), as the card says."""
        if values_NCHW.ndim != 4 or values_NCHW.shape[1] != len(self.bands):
            raise ValueError(
                f"(N, {len(self.bands)}, H, W) is needed ({', '.join(self.bands)}), not {values_NCHW.shape}"
            )
        return (values_NCHW - self.mean) / self.std

    def features(self, x_NCHW: Tensor) -> Tensor:
        """Pooled features (N, D)."""
        return self.encoder(x_NCHW)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits (N, K), or features (N, D) where there is no head."""
        h_ND = self.features(x_NCHW)
        return h_ND if self.head is None else self.head(h_ND)

    def probabilities(self, x_NCHW: Tensor) -> Tensor:
        """(N, K): softmax over the classes, or a sigmoid each where a patch has several; UserError without a head."""
        if self.head is None:
            raise UserError(
                "this encoder has no classifier; fine-tune it: python -m ssl_sat.finetune init=<its folder>"
            )
        logits_NK = self.forward(x_NCHW).float()
        return logits_NK.sigmoid() if self.card.task == "multilabel" else logits_NK.softmax(1)

    def get_feature_extractor(self, stages: Sequence[str] | None = None, pooled: bool = False) -> FeatureExtractor:
        """Maps of these stages (default: all), or their means over the image; ConfigError names the valid stages."""
        return FeatureExtractor(self.encoder, stages, self.image_size, pooled)


class FeatureExtractor(nn.Module):
    """Images to an ordered dict of maps (N, C, H, W) by stage, or of their means (N, C) where `pooled`.

    `shapes` gives (C, H, W) of each map at `image_size`, `channels` and `strides` follow from it. Tokens of a ViT come
    as maps without the class token. Gradients flow; the encoder is shared with the model, not copied.
    """

    def __init__(self, encoder: Any, stages: Sequence[str] | None, image_size: int, pooled: bool) -> None:
        super().__init__()
        known = [name for name, _ in encoder.stages]
        for name in stages or ():
            if name not in known:
                raise ConfigError(f"no stage '{name}' (there are: {', '.join(known)}){suggest(name, known)}")
        self.encoder, self.pooled, self.image_size = encoder, pooled, image_size
        self.names = [name for name in known if stages is None or name in stages]
        self.shapes = self._measured()

    def _measured(self) -> dict[str, tuple[int, int, int]]:
        """Shapes of the maps, by a blank image through the network in eval mode."""
        modes = {module: module.training for module in self.encoder.modules()}
        like = next(self.encoder.parameters())
        blank = torch.zeros(1, len(self.encoder.bands), self.image_size, self.image_size, device=like.device)
        try:
            self.encoder.eval()
            with torch.no_grad():
                maps = self.maps(blank.to(like.dtype))
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {name: (value.shape[1], value.shape[2], value.shape[3]) for name, value in maps.items()}

    @property
    def channels(self) -> list[int]:
        """Channels of each map, in the order of `names`."""
        return [self.shapes[name][0] for name in self.names]

    @property
    def strides(self) -> list[float]:
        """Pixels of the image to one of each map."""
        return [self.image_size / self.shapes[name][1] for name in self.names]

    def maps(self, x_NCHW: Tensor) -> OrderedDict[str, Tensor]:
        """Maps (N, C, H, W) by stage."""
        outputs = self.encoder.forward_stages(x_NCHW)
        return OrderedDict((name, _as_map(outputs[name], self.encoder, x_NCHW)) for name in self.names)

    def forward(self, x_NCHW: Tensor) -> OrderedDict[str, Tensor]:
        """Maps, or their means where `pooled`."""
        maps = self.maps(x_NCHW)
        return OrderedDict((name, value.mean((2, 3))) for name, value in maps.items()) if self.pooled else maps

    def with_fpn(self, out_channels: int = 256) -> nn.Module:
        """A backbone for torchvision's detectors: these maps and a feature pyramid (Lin et al. 2017) over them."""
        return PyramidBackbone(self, out_channels)


class PyramidBackbone(nn.Module):
    """Maps of `out_channels` channels called '0', '1', ... and 'pool', as torchvision's BackboneWithFPN gives them.

    The pyramid's weights are fresh, torchvision's initialisation.
    """

    def __init__(self, body: FeatureExtractor, out_channels: int) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        if body.pooled:
            raise ValueError("a pyramid needs maps, not their means")
        self.body, self.out_channels = body, out_channels
        self.fpn = FeaturePyramidNetwork(body.channels, out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """Images to maps of falling resolution."""
        maps = self.body.maps(x_NCHW)
        return self.fpn(OrderedDict((str(at), value) for at, value in enumerate(maps.values())))


def _as_map(output: Tensor, encoder: Any, x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) of what a stage gives in the network's own layout."""
    trunk = getattr(encoder, "trunk", encoder)
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else output
    if output.ndim == 2:
        return output[:, :, None, None]
    tall, wide = trunk.patch_embed.patch_size
    height, width = x_NCHW.shape[2] // tall, x_NCHW.shape[3] // wide
    patches_NTD = output[:, output.shape[1] - height * width :]  # class and register tokens stand before the patches
    return patches_NTD.transpose(1, 2).unflatten(2, (height, width))

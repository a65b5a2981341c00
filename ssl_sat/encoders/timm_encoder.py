"""Any model of timm as an encoder, at any number of bands and image size, its stages found by structure."""

from __future__ import annotations

import inspect
from typing import Any

import timm
from torch import Tensor, nn

from ssl_sat.encoders.contract import Encoder, seeded
from ssl_sat.encoders.spec import TimmSpec, VGG16Spec
from ssl_sat.encoders.stages import stages_of
from ssl_sat.spec import ConfigError, suggest


class TimmEncoder(Encoder):
    """A timm model without its classifier; `embed_dim` is the width of its pooled features."""

    def __init__(self, trunk: nn.Module, bands: tuple[str, ...], image_size: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.bands, self.image_size = tuple(bands), image_size
        width: Any = getattr(trunk, "head_hidden_size", None) or trunk.num_features
        self.embed_dim = int(width)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the pooled features (N, D)."""
        return self.trunk(x_NCHW)

    @property
    def stages(self) -> list[tuple[str, nn.Module]]:
        """Stem, then one stage per block or layer, then what follows them (usually the last norm)."""
        return stages_of(self.trunk)


def create_trunk(spec: TimmSpec, channels: int, image_size: int, **pretrained: Any) -> nn.Module:
    """Create the timm model; ConfigError for an unknown name or for an override that this model does not take."""
    if not timm.is_model(spec.model):
        raise ConfigError(
            f"encoder.model: timm has no '{spec.model}'{suggest(spec.model, timm.list_models())}; "
            f"timm.list_models('*') lists {len(timm.list_models())} names"
        )
    options = {**creation_options(spec, channels, image_size), **pretrained}
    try:
        trunk = timm.create_model(spec.model, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"encoder.model '{spec.model}' cannot be built with {options}: {error}") from error
    if isinstance(spec, VGG16Spec):
        return _pooled_vgg(trunk)
    return _cifar_stem(trunk, spec, channels) if spec.stem == "cifar" else trunk


def creation_options(spec: TimmSpec, channels: int, image_size: int) -> dict[str, Any]:
    """Arguments of timm.create_model beside the name."""
    options: dict[str, Any] = {"in_chans": channels, "num_classes": 0, "drop_rate": spec.drop_rate}
    if spec.drop_path:
        options["drop_path_rate"] = spec.drop_path
    if spec.patch_size is not None:
        options["patch_size"] = spec.patch_size
    if spec.drop_rate and timm.model_entrypoint(spec.model).__module__.endswith(".vision_transformer"):
        options |= {"drop_rate": 0.0, "proj_drop_rate": spec.drop_rate, "pos_drop_rate": spec.drop_rate}
    if _wants_img_size(spec.model):
        options["img_size"] = image_size
    return options


def _wants_img_size(model: str) -> bool:
    """Whether a model is built for one image size: its default configuration says so."""
    cfg = timm.get_pretrained_cfg(model)
    fixed = cfg is not None and bool(cfg.fixed_input_size)
    return fixed or "img_size" in inspect.signature(timm.model_entrypoint(model)).parameters


def _pooled_vgg(trunk: Any) -> nn.Module:
    """Global average pooling at once after the convolutions, in the place of the classifier's hidden layers."""
    trunk.pre_logits = nn.Identity()
    trunk.head_hidden_size = trunk.num_features
    return trunk


def _cifar_stem(trunk: Any, spec: TimmSpec, channels: int) -> nn.Module:
    if not isinstance(trunk, timm.models.ResNet) or not isinstance(trunk.conv1, nn.Conv2d):
        raise ConfigError(f"encoder.stem=cifar is for ResNets with a 7x7 stem, not for '{spec.model}'")
    conv = nn.Conv2d(channels, trunk.conv1.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    trunk.register_module("conv1", conv)
    trunk.register_module("maxpool", nn.Identity())
    return trunk


def build(spec: TimmSpec, *, bands: tuple[str, ...], image_size: int, seed: int) -> TimmEncoder:
    """Build with weights drawn from `seed` (timm's own initialisation)."""
    with seeded(seed):
        return TimmEncoder(create_trunk(spec, len(bands), image_size), bands, image_size)

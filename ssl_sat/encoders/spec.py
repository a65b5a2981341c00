"""What an encoder is configured by. Bands and image size come from the data or the input artifact, not from here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec, runtime


class StartSpec(Spec):
    """Fields of a stage that may start from weights of others.

    init: 'scratch', 'imagenet', a file of weights, or an artifact. weights: the file of init=imagenet, where the hub
    is out of reach. init_bands: what the file's channels are, in their order; null: 13 are Sentinel-2 L1C (the order
    of SSL4EO-S12), 3 are red, green, blue. init_units: what the weights were fed. 'reflectance' as it is (SSL4EO-S12:
    digital numbers / 10000), display values 0..1 as they are ('display') or less ImageNet's mean and by its deviation
    ('imagenet'), or 'standardised' by the data's own statistics; null: reflectance for 13 bands, else standardised.
    init_strict: refuse a file that lacks a weight of the encoder or holds others than heads.
    """

    init: str = "scratch"
    weights: str | None = runtime(None)
    init_bands: tuple[str, ...] | None = None
    init_units: Literal["reflectance", "display", "imagenet", "standardised"] | None = None
    init_strict: bool = runtime(True)


class CnnSpec(Spec):
    """The study's custom CNN; dropout is the rate of the Dropout2d that ends each block."""

    name: Literal["cnn"] = "cnn"
    dropout: float = Field(0.1, ge=0, lt=1)


class TimmSpec(Spec):
    """Any model of timm, by its name there.

    patch_size replaces a ViT's; stem `cifar` replaces a ResNet's 7x7 stride-2 convolution and max-pool by one 3x3 of
    stride 1 (Chen et al. 2020, appendix B.9); drop_rate is timm's dropout in the trunk (ViTs: projections and tokens;
    ResNets have none there), drop_path its stochastic depth.
    """

    name: Literal["timm"] = "timm"
    model: str = "resnet50"
    patch_size: int | None = Field(None, gt=0)
    stem: Literal["default", "cifar"] = "default"
    drop_rate: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)


class ResNet18Spec(TimmSpec):
    """ResNet-18, 512 features."""

    name: Literal["resnet18"] = "resnet18"  # type: ignore[assignment]
    model: Literal["resnet18"] = "resnet18"


class ResNet50Spec(TimmSpec):
    """ResNet-50, 2,048 features."""

    name: Literal["resnet50"] = "resnet50"  # type: ignore[assignment]
    model: Literal["resnet50"] = "resnet50"


class ViTSpec(TimmSpec):
    """ViT-B/16 (patch_size 16 unless given), 768 features, the class token."""

    name: Literal["vit"] = "vit"  # type: ignore[assignment]
    model: Literal["vit_base_patch16_224"] = "vit_base_patch16_224"


class ViTTinySpec(TimmSpec):
    """ViT-Ti/8: 192 features; small enough to train on a CPU."""

    name: Literal["vit_tiny"] = "vit_tiny"  # type: ignore[assignment]
    model: Literal["vit_tiny_patch16_224"] = "vit_tiny_patch16_224"
    patch_size: int | None = Field(8, gt=0)

"""What an encoder is configured by. Bands and image size come from the data or the input artifact, not from here.

`own_image_size`: pixels that an encoder takes where none are asked for; None leaves it to timm's configuration, which
is the size of its published weights (299 for Inception). The networks of the study take EuroSAT's native 64.
"""

from __future__ import annotations

from typing import ClassVar, Literal

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

    own_image_size: ClassVar[int | None] = 64

    name: Literal["cnn"] = "cnn"
    dropout: float = Field(0.1, ge=0, lt=1)


class TimmSpec(Spec):
    """Any model of timm, by its name there.

    patch_size replaces a ViT's; stem `cifar` replaces a ResNet's 7x7 stride-2 convolution and max-pool by one 3x3 of
    stride 1 (Chen et al. 2020, appendix B.9); drop_rate is timm's dropout in the trunk (ViTs: projections and tokens;
    ResNets have none there), drop_path its stochastic depth.
    """

    own_image_size: ClassVar[int | None] = None

    name: Literal["timm"] = "timm"
    model: str = "resnet50"
    patch_size: int | None = Field(None, gt=0)
    stem: Literal["default", "cifar"] = "default"
    drop_rate: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)


class ResNet18Spec(TimmSpec):
    """ResNet-18, 512 features."""

    own_image_size: ClassVar[int | None] = 64

    name: Literal["resnet18"] = "resnet18"  # type: ignore[assignment]
    model: Literal["resnet18"] = "resnet18"


class ResNet50Spec(TimmSpec):
    """ResNet-50, 2,048 features."""

    own_image_size: ClassVar[int | None] = 64

    name: Literal["resnet50"] = "resnet50"  # type: ignore[assignment]
    model: Literal["resnet50"] = "resnet50"


class ViTSpec(TimmSpec):
    """ViT-B/16 (patch_size 16 unless given), 768 features, the class token."""

    own_image_size: ClassVar[int | None] = 64

    name: Literal["vit"] = "vit"  # type: ignore[assignment]
    model: Literal["vit_base_patch16_224"] = "vit_base_patch16_224"


class ViTTinySpec(TimmSpec):
    """ViT-Ti/8: 192 features; small enough to train on a CPU."""

    own_image_size: ClassVar[int | None] = 64

    name: Literal["vit_tiny"] = "vit_tiny"  # type: ignore[assignment]
    model: Literal["vit_tiny_patch16_224"] = "vit_tiny_patch16_224"
    patch_size: int | None = Field(8, gt=0)


class ResNet101Spec(TimmSpec):
    """ResNet-101, 2,048 features."""

    own_image_size: ClassVar[int | None] = 64

    name: Literal["resnet101"] = "resnet101"  # type: ignore[assignment]
    model: Literal["resnet101"] = "resnet101"


class ResNeXt50Spec(TimmSpec):
    """ResNeXt-50 32x4d, 2,048 features."""

    own_image_size: ClassVar[int | None] = 64

    name: Literal["resnext50"] = "resnext50"  # type: ignore[assignment]
    model: Literal["resnext50_32x4d"] = "resnext50_32x4d"


class EfficientNetB0Spec(TimmSpec):
    """EfficientNet-B0, 1,280 features."""

    name: Literal["efficientnet_b0"] = "efficientnet_b0"  # type: ignore[assignment]
    model: Literal["efficientnet_b0"] = "efficientnet_b0"


class EfficientNetB3Spec(TimmSpec):
    """EfficientNet-B3, 1,536 features."""

    name: Literal["efficientnet_b3"] = "efficientnet_b3"  # type: ignore[assignment]
    model: Literal["efficientnet_b3"] = "efficientnet_b3"


class EfficientNetV2SSpec(TimmSpec):
    """EfficientNetV2-S as published (TensorFlow's padding, for which there are weights), 1,280 features."""

    name: Literal["efficientnet_v2_s"] = "efficientnet_v2_s"  # type: ignore[assignment]
    model: Literal["tf_efficientnetv2_s"] = "tf_efficientnetv2_s"


class MobileNetV2Spec(TimmSpec):
    """MobileNetV2, 1,280 features."""

    name: Literal["mobilenet_v2"] = "mobilenet_v2"  # type: ignore[assignment]
    model: Literal["mobilenetv2_100"] = "mobilenetv2_100"


class VGG16Spec(TimmSpec):
    """VGG-16: its 13 convolutions and global average pooling, 512 features.

    The two hidden layers of 4,096 units belong to its classifier, are tied to 224 px and hold nine tenths of its
    parameters; they are left out, as our head takes their place. `encoder=timm encoder.model=vgg16` keeps them.
    """

    name: Literal["vgg16"] = "vgg16"  # type: ignore[assignment]
    model: Literal["vgg16"] = "vgg16"


class InceptionV3Spec(TimmSpec):
    """Inception-v3 without its auxiliary classifier, 2,048 features; from 75 px."""

    name: Literal["inception_v3"] = "inception_v3"  # type: ignore[assignment]
    model: Literal["inception_v3"] = "inception_v3"


class DenseNetSpec(TimmSpec):
    """DenseNet-121, 1,024 features."""

    name: Literal["densenet"] = "densenet"  # type: ignore[assignment]
    model: Literal["densenet121"] = "densenet121"


class ConvNeXtSpec(TimmSpec):
    """ConvNeXt-T, 768 features."""

    name: Literal["convnext"] = "convnext"  # type: ignore[assignment]
    model: Literal["convnext_tiny"] = "convnext_tiny"


class SwinSpec(TimmSpec):
    """Swin-T with windows of 7, 768 features."""

    name: Literal["swin"] = "swin"  # type: ignore[assignment]
    model: Literal["swin_tiny_patch4_window7_224"] = "swin_tiny_patch4_window7_224"


class GoogLeNetSpec(Spec):
    """GoogLeNet with batch norm (torchvision's) without its auxiliary classifiers, 1,024 features.

    dropout: the rate before the classifier, as published 0.2; our head has its own.
    """

    own_image_size: ClassVar[int | None] = 224

    name: Literal["googlenet"] = "googlenet"
    dropout: float = Field(0.0, ge=0, lt=1)

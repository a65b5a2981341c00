"""Encoders by name: images of any bands in, one vector per image out."""

from ssl_sat.encoders import spec
from ssl_sat.registry import Registry

ENCODERS = Registry("encoder")
ENCODERS.add("cnn", "ssl_sat.encoders.cnn:build", spec.CnnSpec, version=1)
ENCODERS.add("googlenet", "ssl_sat.encoders.googlenet:build", spec.GoogLeNetSpec, version=1)
for _name, _spec in {
    "timm": spec.TimmSpec,
    "resnet18": spec.ResNet18Spec,
    "resnet50": spec.ResNet50Spec,
    "resnet101": spec.ResNet101Spec,
    "resnext50": spec.ResNeXt50Spec,
    "efficientnet_b0": spec.EfficientNetB0Spec,
    "efficientnet_b3": spec.EfficientNetB3Spec,
    "efficientnet_v2_s": spec.EfficientNetV2SSpec,
    "mobilenet_v2": spec.MobileNetV2Spec,
    "vgg16": spec.VGG16Spec,
    "inception_v3": spec.InceptionV3Spec,
    "densenet": spec.DenseNetSpec,
    "convnext": spec.ConvNeXtSpec,
    "vit": spec.ViTSpec,
    "vit_tiny": spec.ViTTinySpec,
    "swin": spec.SwinSpec,
}.items():
    ENCODERS.add(_name, "ssl_sat.encoders.timm_encoder:build", _spec, version=1)

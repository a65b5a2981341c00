"""Encoders by name: images of any bands in, one vector per image out."""

from ssl_sat.encoders.spec import CnnSpec, ResNet18Spec, ResNet50Spec, TimmSpec, ViTSpec, ViTTinySpec
from ssl_sat.registry import Registry

ENCODERS = Registry("encoder")
ENCODERS.add("cnn", "ssl_sat.encoders.cnn:build", CnnSpec, version=1)
ENCODERS.add("resnet18", "ssl_sat.encoders.timm_encoder:build", ResNet18Spec, version=1)
ENCODERS.add("resnet50", "ssl_sat.encoders.timm_encoder:build", ResNet50Spec, version=1)
ENCODERS.add("vit", "ssl_sat.encoders.timm_encoder:build", ViTSpec, version=1)
ENCODERS.add("vit_tiny", "ssl_sat.encoders.timm_encoder:build", ViTTinySpec, version=1)
ENCODERS.add("timm", "ssl_sat.encoders.timm_encoder:build", TimmSpec, version=1)

"""Backbones: classification networks that compute c2..c5 (the bottom-up pathway of FPN §3).

The module :mod:`fpn_lightning.models.backbones.base` describes the interface of backbones.
"""

from fpn_lightning.models.backbones.efficientnet_lite import EfficientNetLiteBackbone
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.backbones.timm import TimmBackbone
from fpn_lightning.models.backbones.torchvision import (
    ConvNeXtBackbone,
    EfficientNetBackbone,
    MobileNetV2Backbone,
    VGGBackbone,
)

__all__ = [
    "ConvNeXtBackbone",
    "EfficientNetBackbone",
    "EfficientNetLiteBackbone",
    "MobileNetV2Backbone",
    "NarrowResNet",
    "ResNetBackbone",
    "TimmBackbone",
    "VGGBackbone",
]

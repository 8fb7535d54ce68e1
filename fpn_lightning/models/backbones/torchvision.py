"""Backbones from torchvision's VGG-16, MobileNetV2, EfficientNet and ConvNeXt (not in the paper).

FPN is independent of the backbone (FPN §1). The outputs c2, c3, c4, c5 of each backbone in this file have strides 4, 8,
16, 32. Output c_k is the last map of the network with the stride of c_k. Layers that only classification needs are left
out: the wide 1x1 convolution before the average pooling of MobileNetV2 and EfficientNet, the last LayerNorm of
ConvNeXt, and fully connected layers. Stochastic depth is switched off, so that a training step depends only on seed,
step and images.

With a small ``width_mult``, MobileNetV2 and EfficientNet can be trained from scratch on a CPU. For small images,
``first_stride: 2`` removes the subsampling from the stage of c2; the strides of c2..c5 are then 2, 4, 8, 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn
from torchvision.models import convnext, efficientnet, mobilenetv2, vgg
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.base import Norm, norm_layer
from fpn_lightning.models.backbones.published import torchvision_weights
from fpn_lightning.models.backbones.resnet import TorchvisionBackbone


class FeaturesBackbone(TorchvisionBackbone):
    """A backbone cut from a torchvision classifier's attribute ``features``: the layers before its average pooling."""

    def _cut(self, layers: nn.Sequential, ends: Sequence[int], channels: Sequence[int], first_stride: int = 4) -> None:
        """Cut the sequence of layers into the stem and the stages of c2..c5.

        Args:
            layers: torchvision's ``features``.
            ends: five indices into ``layers``: the end (exclusive) of the stem and of each stage. Layers after the last
                end are left out.
            channels: channels of c2..c5.
            first_stride: stride of c2, 4 or 2. If c2 has stride 2, all convolutions in the stage of c2 have stride 1.
        """
        parts = ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]
        bounds = list(pairwise([0, *ends]))
        prefixes: dict[str, str | None] = {f"features.{index}": None for index in range(len(layers))}
        prefixes["classifier"] = None
        for part, (start, end) in zip(parts, bounds, strict=True):
            # Layers keep their names when a Sequential is sliced.
            prefixes.update({f"features.{index}": f"{part}.{index}" for index in range(start, end)})
        stem, *stages = (layers[start:end] for start, end in bounds)
        if first_stride == 2:
            # The stem keeps its stride of 2. With stride 1, the stem would cost more than all later layers.
            for conv in (layer for layer in stages[0].modules() if isinstance(layer, nn.Conv2d)):
                conv.stride = (1, 1)
        self._assemble(stem, stages, channels, prefixes, first_stride)


class VGGBackbone(FeaturesBackbone):
    """VGG-16, the backbone of Faster R-CNN. c2, c3 and c4 are conv3_3, conv4_3 and conv5_3 after ReLU; c5 is pool5.

    Args:
        name: ``vgg16`` or, with BatchNorm, ``vgg16_bn``.
        weights: as for :class:`~fpn_lightning.models.backbones.resnet.ResNetBackbone`.
        norm: ``frozen`` or ``batch`` for ``vgg16_bn``; ``None`` for ``vgg16``, which has no BatchNorm.
        frozen_stages: number of stages to freeze, in the order stem (conv1, conv2), conv3, conv4, conv5, pool5. By
            default, only the stem is frozen, as in Fast R-CNN.

    Raises:
        InputError: if the arguments contradict each other; for example, ``vgg16`` is given a ``norm``.
    """

    def __init__(
        self,
        name: Literal["vgg16", "vgg16_bn"] = "vgg16",
        weights: str | None = "IMAGENET1K_V1",
        norm: Literal["frozen", "batch"] | None = None,
        frozen_stages: int = 1,
    ) -> None:
        super().__init__(name, weights, norm, frozen_stages, "torchvision")
        if name == "vgg16" and norm is not None:
            raise InputError(
                f"model.detector.backbone: vgg16 has no BatchNorm, so norm cannot be {norm!r}. Use vgg16_bn, or set "
                "norm to null."
            )
        if name == "vgg16_bn" and norm is None:
            raise InputError("model.detector.backbone: vgg16_bn needs norm 'frozen' (pre-trained) or 'batch'.")
        # The classifier is not built, because its fully connected layers need 0.5 GB.
        layers = vgg.make_layers(vgg.cfgs["D"], batch_norm=name == "vgg16_bn")
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.get_parameter("bias"))
            elif isinstance(layer, nn.BatchNorm2d) and norm == "frozen":
                layers[index] = FrozenBatchNorm2d(layer.num_features)
        pools = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        # c2, c3 and c4 are the inputs of pooling layers. Therefore each stage begins with a pooling layer; the stage of
        # c2 begins with pools[1].
        self._cut(layers, [*pools[1:], pools[4] + 1], [256, 512, 512, 512])


class MobileNetV2Backbone(FeaturesBackbone):
    """MobileNetV2 (Sandler et al., CVPR 2018); its outputs c2..c5 have 24, 32, 96 and 320 channels.

    Args:
        weights: as for :class:`~fpn_lightning.models.backbones.resnet.ResNetBackbone`.
        norm: ``frozen`` for pre-trained backbones; ``batch`` or ``group`` for training from scratch.
        frozen_stages: number of stages to freeze, in the order stem (stride 2), c2, c3, c4, c5.
        width_mult: factor on the channels of every layer; products are rounded to multiples of 8.
        first_stride: stride of c2, 4 or 2; each later stage doubles the stride.

    Raises:
        InputError: if the arguments contradict each other; for example, ``norm`` is ``frozen`` without weights.
    """

    def __init__(
        self,
        weights: str | None = "IMAGENET1K_V1",
        norm: Norm = "frozen",
        frozen_stages: int = 2,
        width_mult: float = 1.0,
        first_stride: Literal[2, 4] = 4,
    ) -> None:
        super().__init__("mobilenet_v2", weights, norm, frozen_stages, "torchvision")
        _check_multipliers(self, width_mult=width_mult)
        layers = mobilenetv2.MobileNetV2(width_mult=width_mult, norm_layer=norm_layer(norm)).features
        ends = [2, 4, 7, 14, 18]
        self._cut(layers, ends, [layers[end - 1].out_channels for end in ends[1:]], first_stride)


# Table 1 of the EfficientNet paper: expansion, kernel size, stride, input and output channels, number of layers.
_EFFICIENTNET_B0 = [
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
]
_EFFICIENTNET_WIDTH_DEPTH = {
    "efficientnet_b0": (1.0, 1.0),
    "efficientnet_b1": (1.0, 1.1),
    "efficientnet_b2": (1.1, 1.2),
    "efficientnet_b3": (1.2, 1.4),
    "efficientnet_b4": (1.4, 1.8),
}


class EfficientNetBackbone(FeaturesBackbone):
    """EfficientNet-B0 to B4 (Tan and Le, ICML 2019); c2..c5 of B0 have 24, 40, 112 and 320 channels.

    Squeeze-and-excitation layers average over a whole map, including padding. The padding of an image depends on the
    other images of the batch. Through the padding, the other images of a batch change the results for an image, and
    they do so more than with other backbones. The default batch size of evaluation is 1, which avoids this dependence.

    Args:
        name: torchvision's name of the variant.
        weights: as for :class:`~fpn_lightning.models.backbones.resnet.ResNetBackbone`.
        norm: ``frozen`` for pre-trained backbones; ``batch`` or ``group`` for training from scratch.
        frozen_stages: number of stages to freeze, in the order stem (stride 2), c2, c3, c4, c5.
        width_mult: factor on the channels of the variant; products are rounded to multiples of 8.
        depth_mult: factor on the numbers of layers of the variant; products are rounded up.
        first_stride: stride of c2, 4 or 2; each later stage doubles the stride.

    Raises:
        InputError: if the arguments contradict each other; for example, ``norm`` is ``frozen`` without weights.
    """

    def __init__(
        self,
        name: Literal[
            "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"
        ] = "efficientnet_b0",
        weights: str | None = "IMAGENET1K_V1",
        norm: Norm = "frozen",
        frozen_stages: int = 2,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        first_stride: Literal[2, 4] = 4,
    ) -> None:
        super().__init__(name, weights, norm, frozen_stages, "torchvision")
        _check_multipliers(self, width_mult=width_mult, depth_mult=depth_mult)
        width, depth = _EFFICIENTNET_WIDTH_DEPTH[name]
        blocks = [
            efficientnet.MBConvConfig(*row, width_mult=width * width_mult, depth_mult=depth * depth_mult)
            for row in _EFFICIENTNET_B0
        ]
        layers = efficientnet.EfficientNet(
            blocks, dropout=0.0, stochastic_depth_prob=0.0, norm_layer=norm_layer(norm)
        ).features
        ends = [2, 3, 4, 6, 8]
        self._cut(layers, ends, [layers[end - 1][-1].out_channels for end in ends[1:]], first_stride)


class ConvNeXtBackbone(FeaturesBackbone):
    """ConvNeXt-Tiny (Liu et al., CVPR 2022). LayerNorm has no running statistics, so this class has no option ``norm``.

    Args:
        weights: as for :class:`~fpn_lightning.models.backbones.resnet.ResNetBackbone`.
        frozen_stages: number of stages to freeze, in the order stem (stride 4), c2, c3, c4, c5.

    Raises:
        InputError: if ``frozen_stages`` is not in 0..5, or is above 0 although ``weights`` is ``None``.
    """

    def __init__(self, weights: str | None = "IMAGENET1K_V1", frozen_stages: int = 2) -> None:
        super().__init__("convnext_tiny", weights, None, frozen_stages, "torchvision")
        layers = convnext.convnext_tiny(weights=None, stochastic_depth_prob=0.0).features
        self._cut(layers, [1, 2, 4, 6, 8], [96, 192, 384, 768])


def _check_multipliers(backbone: FeaturesBackbone, **multipliers: float) -> None:
    for name, value in multipliers.items():
        if value <= 0:
            raise InputError(f"model.detector.backbone: {name} is {value}; it has to be positive.")
        if value != 1 and torchvision_weights(backbone.name, backbone.weights) is not None:
            raise InputError(
                f"model.detector.backbone: weights {backbone.weights} of {backbone.name} fit only {name} 1, not "
                f"{value}. Set weights to null."
            )

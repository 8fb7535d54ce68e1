"""A backbone that is small enough to train from scratch on a CPU (not in the paper)."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torchvision.models import resnet

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.base import StagedBackbone, norm_layer


class NarrowResNet(StagedBackbone):
    """A small ResNet for CPUs: strides 2, 4, 8, 16 and few channels, trained from scratch.

    Args:
        width: channels of c2; each later stage doubles the channels.
        blocks: number of residual blocks in the stages of c2..c5. With 0 blocks for c2, c2 is the output of the stem,
            and its receptive field is 3 px. With one block, the receptive field is 11 px, and the AR of a bottom-up
            pyramid is closer to that of FPN (reports/mini/deep_c2.md).
        norm: ``batch`` or ``group``.

    Raises:
        InputError: if one of the stages of c3..c5 has no block, or if the number of blocks of c2 is negative.
    """

    def __init__(
        self,
        width: int = 16,
        blocks: tuple[int, int, int, int] = (0, 1, 1, 1),
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        if any(count < 1 for count in blocks[1:]) or blocks[0] < 0:
            raise InputError(f"model.detector.backbone: blocks is {blocks}; set at least 1 block for each of c3..c5.")
        make_norm = norm_layer(norm)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), make_norm(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList()
        channels = width
        for index, count in enumerate(blocks):
            out_channels = width * 2**index
            stage = nn.Sequential()
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                shortcut = None
                if stride != 1 or channels != out_channels:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), make_norm(out_channels)
                    )
                stage.append(resnet.BasicBlock(channels, out_channels, stride, shortcut, norm_layer=make_norm))
                channels = out_channels
            self.stages.append(stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.channels = {f"c{k}": width * 2 ** (k - 2) for k in range(2, 6)}
        self.strides = {f"c{k}": 2 ** (k - 1) for k in range(2, 6)}

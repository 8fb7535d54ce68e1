"""The feature designs the paper compares (FPN §3, Tables 1 and 2), from stage outputs c_k to maps p_k.

Shape shorthand: N images, C_k channels of c_k, d channels of every p_k (256 in the paper), H_k x W_k size of level k.

Every design is called with what the trunk declares, ``Design(in_channels, strides, out_channels)``, and declares in
turn the strides of the maps it hands out; heads read nothing else.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def init_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Xavier-uniform weight (Detectron's choice for pyramids) and zero bias, in place."""
    nn.init.kaiming_uniform_(conv.weight, a=1)  # with a=1 this is Xavier over the fan-in, as Caffe2's XavierFill
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class Pyramid(nn.Module):
    """What every feature design declares.

    Attributes:
        out_channels: channels d of every map.
        strides: stride of each map in network-input pixels, finest first, ``{"p2": 4, ...}``.
    """

    out_channels: int
    strides: dict[str, int]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn ``{"c2": (N, C_2, H_2, W_2), ...}`` into ``{"p2": (N, d, H_2, W_2), ...}``, finest first."""
        raise TypeError(f"{type(self).__name__} is not a pyramid: it does not implement forward()")


class FPN(Pyramid):
    """Feature Pyramid Network (FPN §3; rows (c)): bottom-up, top-down and lateral connections.

    p5 = output(lateral(c5)); going down, the merged map (before its 3x3) is upsampled by nearest neighbour and added
    to the next lateral. There is no non-linearity in these layers. p6 is p5 subsampled with stride 2 (FPN §4.1),
    used by the RPN only.

    Args:
        in_channels: ``{"c2": C_2, ..., "c5": C_5}``, finest first.
        strides: ``{"c2": s_2, ..., "c5": s_5}``.
        out_channels: d.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.levels = [int(name[1:]) for name in in_channels]
        top = self.levels[-1]
        self.strides = {f"p{k}": strides[f"c{k}"] for k in self.levels} | {f"p{top + 1}": 2 * strides[f"c{top}"]}
        self.lateral_convs = nn.ModuleDict(
            {f"p{k}": init_conv(nn.Conv2d(in_channels[f"c{k}"], out_channels, 1)) for k in self.levels}
        )
        self.output_convs = nn.ModuleDict(
            {f"p{k}": init_conv(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for k in self.levels}
        )

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Pyramid.forward`."""
        merged: Tensor | None = None
        outputs: dict[str, Tensor] = {}
        for k in reversed(self.levels):
            lateral = self.lateral_convs[f"p{k}"](features[f"c{k}"])
            # An odd-sized map is one row or column short of twice the coarser one, hence the explicit size.
            merged = lateral if merged is None else lateral + F.interpolate(merged, size=lateral.shape[-2:])
            outputs[f"p{k}"] = self.output_convs[f"p{k}"](merged)
        top = self.levels[-1]
        outputs[f"p{top + 1}"] = outputs[f"p{top}"][..., ::2, ::2]
        return {name: outputs[name] for name in self.strides}

"""The feature designs the paper compares (FPN §3, Tables 1 and 2), from stage outputs c_k to maps p_k.

Shape shorthand: N images, C_k channels of c_k, d channels of every p_k (256 in the paper), H_k x W_k size of level k.

Every design is called with what the trunk declares, ``Design(in_channels, strides, out_channels)``, and declares in
turn the channels and strides of the maps it hands out; heads read nothing else. They are built from three pieces:
*lateral* 1x1 convolutions (c_k to d channels), *merging* them into maps m_k, which is where the designs differ, and
*output* 3x3 convolutions (m_k to p_k). There is no non-linearity in these layers (FPN §3).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from fpn_lightning.errors import InputError


def init_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Xavier-uniform weight (Detectron's choice for pyramids) and zero bias, in place."""
    nn.init.kaiming_uniform_(conv.weight, a=1)  # with a=1 this is Xavier over the fan-in, as Caffe2's XavierFill
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def level_of(name: str) -> int:
    """The level k in ``ck`` or ``pk``."""
    return int(name[1:])


def upsample_to(feature: Tensor, finer: Tensor) -> Tensor:
    """Nearest-neighbour upsampling to the size of a finer map.

    The factor is 2, but an odd-sized finer map is one row or column short of twice the coarser one.
    """
    return F.interpolate(feature, size=finer.shape[-2:], mode="nearest")


class Pyramid(nn.Module):
    """What every feature design declares.

    Attributes:
        out_channels: channels of every map.
        strides: stride of each map in network-input pixels, finest first, ``{"p2": 4, ...}``.
        used: names of the trunk's outputs that are read; the trunk may drop what lies behind them.
    """

    out_channels: int
    strides: dict[str, int]
    used: tuple[str, ...]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn ``{"c2": (N, C_2, H_2, W_2), ...}`` into ``{"p2": (N, d, H_2, W_2), ...}``, finest first."""
        raise NotImplementedError


class SingleMap(Pyramid):
    """One stage output as it is, for RPN and detector alike: rows (a), C4, and (b), C5; Fig. 1(b).

    The head carries all anchor sizes on this one map.

    Args:
        in_channels: ``{"c2": C_2, ...}``.
        strides: ``{"c2": s_2, ...}``.
        out_channels: not used; the map keeps the channels of its stage.
        level: which stage, 4 or 5.

    Raises:
        InputError: if the trunk has no such stage.
    """

    def __init__(
        self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256, level: int = 4
    ) -> None:
        super().__init__()
        if f"c{level}" not in in_channels:
            raise InputError(f"pyramid: level {level} is none of the trunk's maps ({', '.join(in_channels)})")
        self.level = level
        self.used = (f"c{level}",)
        self.out_channels = in_channels[f"c{level}"]
        self.strides = {f"p{level}": strides[f"c{level}"]}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Pyramid.forward`."""
        return {f"p{self.level}": features[f"c{self.level}"]}


class MergedPyramid(Pyramid):
    """Laterals, a merge, output convolutions, and p6 as p5 subsampled with stride 2 (FPN §4.1; RPN only).

    Subclasses say what is merged.

    Args:
        in_channels: ``{"c2": C_2, ..., "c5": C_5}``, finest first.
        strides: ``{"c2": s_2, ..., "c5": s_5}``.
        out_channels: d.
        laterals: names of the stage outputs that get a lateral convolution.
        outputs: levels that get an output convolution and are handed out.
    """

    def __init__(
        self,
        in_channels: dict[str, int],
        strides: dict[str, int],
        out_channels: int,
        laterals: Iterable[str],
        outputs: Iterable[int],
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.used = tuple(in_channels)
        self.levels = [level_of(name) for name in in_channels]
        self.top = self.levels[-1]
        self.lateral_convs = nn.ModuleDict(
            {f"p{level_of(name)}": init_conv(nn.Conv2d(in_channels[name], out_channels, 1)) for name in laterals}
        )
        self.output_convs = nn.ModuleDict(
            {f"p{k}": init_conv(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for k in outputs}
        )
        self.strides = {name: strides[f"c{level_of(name)}"] for name in self.output_convs}
        if f"p{self.top}" in self.output_convs:
            self.strides[f"p{self.top + 1}"] = 2 * strides[f"c{self.top}"]

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """The maps m_k by level, ``(N, d, H_k, W_k)`` each."""
        raise NotImplementedError

    def coarser(self, top: Tensor) -> dict[str, Tensor]:
        """Maps beyond the trunk's top: one, every second row and column of it."""
        return {f"p{self.top + 1}": top[..., ::2, ::2]}

    def lateral(self, features: dict[str, Tensor], k: int) -> Tensor:
        """1x1 convolution of c_k, ``(N, d, H_k, W_k)``."""
        return self.lateral_convs[f"p{k}"](features[f"c{k}"])

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Pyramid.forward`."""
        merged = self.merge(features)
        outputs = {name: conv(merged[level_of(name)]) for name, conv in self.output_convs.items()}
        if f"p{self.top}" in outputs:
            outputs |= self.coarser(outputs[f"p{self.top}"])
        return outputs


class FPN(MergedPyramid):
    """Feature Pyramid Network: rows (c); FPN §3, Fig. 1(d).

    m5 = lateral(c5); going down, the merged map, before its 3x3, is upsampled and added to the next lateral.

    Args:
        in_channels: ``{"c2": C_2, ..., "c5": C_5}``, finest first.
        strides: ``{"c2": s_2, ..., "c5": s_5}``.
        out_channels: d.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        super().__init__(in_channels, strides, out_channels, in_channels, map(level_of, in_channels))

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Add the upsampled coarser map to each lateral."""
        merged = {self.top: self.lateral(features, self.top)}
        for k in reversed(self.levels[:-1]):
            lateral = self.lateral(features, k)
            merged[k] = lateral + upsample_to(merged[k + 1], lateral)
        return merged


class BottomUpPyramid(MergedPyramid):
    """Laterals without a top-down path: rows (d), much like SSD; Fig. 1(c).

    Args:
        in_channels: as in :class:`FPN`.
        strides: as in :class:`FPN`.
        out_channels: d.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        super().__init__(in_channels, strides, out_channels, in_channels, map(level_of, in_channels))

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Nothing is added: m_k is the lateral of c_k."""
        return {k: self.lateral(features, k) for k in self.levels}


class SSDPyramid(MergedPyramid):
    """Bottom-up without the fine maps: from c4 on, as SSD, with two new maps on top (FPN §1); Fig. 1(c).

    Called as :class:`FPN` is; hands out p4 to p7.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        used = {name: count for name, count in in_channels.items() if level_of(name) >= 4}
        super().__init__(used, strides, out_channels, used, map(level_of, used))
        added = {f"p{self.top + i}": 2**i * strides[f"c{self.top}"] for i in (1, 2)}
        self.strides |= added
        self.extra_convs = nn.ModuleDict(
            {name: init_conv(nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)) for name in added}
        )

    merge = BottomUpPyramid.merge

    def coarser(self, top: Tensor) -> dict[str, Tensor]:
        """New stages, which unlike the paper's layers have a non-linearity: ReLU, then a 3x3 with stride 2."""
        outputs = {}
        for name, conv in self.extra_convs.items():
            outputs[name] = top = conv(F.relu(top))
        return outputs


class TopDownPyramid(MergedPyramid):
    """The top-down path without lateral connections: rows (e).

    Every level is the top map, upsampled again and again; only the finer maps' sizes are used.

    Args:
        in_channels: as in :class:`FPN`.
        strides: as in :class:`FPN`.
        out_channels: d.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        top = list(in_channels)[-1:]
        super().__init__(in_channels, strides, out_channels, top, map(level_of, in_channels))

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Upsample the top lateral to every level."""
        merged = {self.top: self.lateral(features, self.top)}
        for k in reversed(self.levels[:-1]):
            merged[k] = upsample_to(merged[k + 1], features[f"c{k}"])
        return merged


class FinestLevel(MergedPyramid):
    """FPN of which only the finest map is used, with the anchors of all levels on it: rows (f).

    Args:
        in_channels: as in :class:`FPN`.
        strides: as in :class:`FPN`.
        out_channels: d.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        # No output convolutions that nothing would train: DDP waits for the gradient of every parameter.
        finest = level_of(next(iter(in_channels)))
        super().__init__(in_channels, strides, out_channels, in_channels, [finest])

    merge = FPN.merge

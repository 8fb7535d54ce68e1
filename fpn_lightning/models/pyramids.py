"""The pyramids that the paper compares: maps p_k from the backbone's outputs c_k (FPN §3, Tables 1 and 2).

Shape shorthand: N images, C_k channels of c_k, d channels of every p_k (256 in the paper), H_k x W_k size of level k.

A pyramid is built from the channels and strides that the backbone declares, ``FPN(in_channels, strides,
out_channels)``, and declares the channels and strides of its own maps to the heads. It has three parts: *lateral* 1x1
convolutions (c_k to d channels); a *merge* of them into maps m_k, in which the pyramids differ; and *output* 3x3
convolutions (m_k to p_k). These layers have no non-linearity (FPN §3).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpn_lightning.errors import InputError
from fpn_lightning.models.convolution import Conv2d


def init_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Set Xavier-uniform weights (Detectron's choice for pyramids) and zero biases, in place."""
    nn.init.kaiming_uniform_(conv.weight, a=1)  # with a=1 Xavier over the fan-in, as Caffe2's XavierFill
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def level_of(name: str) -> int:
    """Return the level k of a name ``ck`` or ``pk``."""
    return int(name[1:])


def upsample_to(feature: Tensor, finer: Tensor) -> Tensor:
    """Upsample a map to the size of a finer one, nearest neighbour.

    The factor is 2; a finer map of odd size has one row or column less than twice the coarser one.
    """
    return F.interpolate(feature, size=finer.shape[-2:], mode="nearest")


class Pyramid(nn.Module):
    """Base class of pyramids.

    Attributes:
        out_channels: channels of every map.
        strides: stride of each map in network-input pixels, finest first, ``{"p2": 4, ...}``.
        used: names of the backbone's outputs that are read; the backbone may drop the layers after the last one.
    """

    out_channels: int
    strides: dict[str, int]
    used: tuple[str, ...]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn ``{"c2": (N, C_2, H_2, W_2), ...}`` into ``{"p2": (N, d, H_2, W_2), ...}``, finest first."""
        raise NotImplementedError


class SingleMap(Pyramid):
    """One output of the backbone, unchanged: rows (a) with C4 and (b) with C5; Fig. 1(b).

    The RPN has all anchor sizes on this map.

    Args:
        in_channels: ``{"c2": C_2, ...}``.
        strides: ``{"c2": s_2, ...}``.
        out_channels: ignored; the map keeps its channels.
        level: level of the map, 4 or 5.

    Raises:
        InputError: if the backbone has no map of this level.
    """

    def __init__(
        self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256, level: int = 4
    ) -> None:
        super().__init__()
        if f"c{level}" not in in_channels:
            raise InputError(
                f"model.detector.pyramid: the backbone has no map of level {level}; it has {', '.join(in_channels)}."
            )
        self.level = level
        self.used = (f"c{level}",)
        self.out_channels = in_channels[f"c{level}"]
        self.strides = {f"p{level}": strides[f"c{level}"]}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Pyramid.forward`."""
        return {f"p{self.level}": features[f"c{self.level}"]}


class MergedPyramid(Pyramid):
    """Lateral convolutions, a merge that subclasses define, and output convolutions.

    If p5 is among the outputs, p6 is p5 subsampled with stride 2 (FPN §4.1; only the RPN uses it).

    Args:
        in_channels: ``{"c2": C_2, ..., "c5": C_5}``, finest first.
        strides: ``{"c2": s_2, ..., "c5": s_5}``.
        out_channels: d.
        laterals: names of the backbone's outputs that get a lateral convolution.
        outputs: levels that get an output convolution.
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
            {f"p{level_of(name)}": init_conv(Conv2d(in_channels[name], out_channels, 1)) for name in laterals}
        )
        self.output_convs = nn.ModuleDict(
            {f"p{k}": init_conv(Conv2d(out_channels, out_channels, 3, padding=1)) for k in outputs}
        )
        self.strides = {name: strides[f"c{level_of(name)}"] for name in self.output_convs}
        if f"p{self.top}" in self.output_convs:
            self.strides[f"p{self.top + 1}"] = 2 * strides[f"c{self.top}"]

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Compute the maps m_k, ``(N, d, H_k, W_k)`` each, by level k."""
        raise NotImplementedError

    def coarser(self, top: Tensor) -> dict[str, Tensor]:
        """Compute the maps above the coarsest output: here one, every second row and column of it."""
        return {f"p{self.top + 1}": top[..., ::2, ::2]}

    def lateral(self, features: dict[str, Tensor], k: int) -> Tensor:
        """Apply the lateral 1x1 convolution to c_k: ``(N, d, H_k, W_k)``."""
        return self.lateral_convs[f"p{k}"](features[f"c{k}"])

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Pyramid.forward`."""
        merged = self.merge(features)
        outputs = {name: conv(merged.pop(level_of(name))) for name, conv in self.output_convs.items()}
        if f"p{self.top}" in outputs:
            outputs |= self.coarser(outputs[f"p{self.top}"])
        return outputs


class FPN(MergedPyramid):
    """Feature Pyramid Network: rows (c); FPN §3, Fig. 1(d).

    m5 = lateral(c5), and from there down m_k = lateral(c_k) + upsampled m_(k+1).

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
            merged[k] = lateral.add_(upsample_to(merged[k + 1], lateral))  # in place: the largest map of the model
        return merged


class BottomUpPyramid(MergedPyramid):
    """Laterals without a top-down path: rows (d), much like SSD; Fig. 1(c). Arguments as in :class:`FPN`."""

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        super().__init__(in_channels, strides, out_channels, in_channels, map(level_of, in_channels))

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Use the laterals as they are: m_k = lateral(c_k)."""
        return {k: self.lateral(features, k) for k in self.levels}


class SSDPyramid(MergedPyramid):
    """Bottom-up without the fine maps, like SSD: from c4 on, and two new maps on top (FPN §1); Fig. 1(c).

    Arguments as in :class:`FPN`; the maps are p4 to p7.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        used = {name: count for name, count in in_channels.items() if level_of(name) >= 4}
        super().__init__(used, strides, out_channels, used, map(level_of, used))
        added = {f"p{self.top + i}": 2**i * strides[f"c{self.top}"] for i in (1, 2)}
        self.strides |= added
        self.extra_convs = nn.ModuleDict(
            {name: init_conv(Conv2d(out_channels, out_channels, 3, stride=2, padding=1)) for name in added}
        )

    merge = BottomUpPyramid.merge

    def coarser(self, top: Tensor) -> dict[str, Tensor]:
        """Compute p6 and p7 by ReLU and a 3x3 convolution with stride 2; unlike FPN's layers these are non-linear."""
        outputs = {}
        for name, conv in self.extra_convs.items():
            outputs[name] = top = conv(F.relu(top))
        return outputs


class TopDownPyramid(MergedPyramid):
    """The top-down path without lateral connections: rows (e).

    Every level is the coarsest map, upsampled step by step. Of the finer maps only the sizes are used.
    Arguments as in :class:`FPN`.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        top = list(in_channels)[-1:]
        super().__init__(in_channels, strides, out_channels, top, map(level_of, in_channels))

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Upsample the coarsest lateral to every level."""
        merged = {self.top: self.lateral(features, self.top)}
        for k in reversed(self.levels[:-1]):
            merged[k] = upsample_to(merged[k + 1], features[f"c{k}"])
        return merged


class FinestLevel(MergedPyramid):
    """The finest map of FPN alone, with the anchors of all levels on it: rows (f). Arguments as in :class:`FPN`."""

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        # The other output convolutions would get no gradient, for which DDP waits.
        finest = level_of(next(iter(in_channels)))
        super().__init__(in_channels, strides, out_channels, in_channels, [finest])

    merge = FPN.merge


@torch.no_grad()
def check_pyramid(pyramid: Pyramid, channels: dict[str, int], strides: dict[str, int]) -> None:
    """Run maps of zeros through a pyramid and compare its maps with the declared channels and strides.

    Args:
        pyramid: a new pyramid.
        channels: channels of the backbone's outputs.
        strides: strides of the backbone's outputs.

    Raises:
        InputError: if the pyramid cannot read the backbone's outputs, or if names, channels or sizes differ.
    """
    name, coarsest = type(pyramid).__name__, max(strides.values())
    # A declared stride, too small or too large, shows on an image of one by two cells of the coarsest map.
    side = min(max(coarsest, *pyramid.strides.values()), 4 * coarsest)
    size = (side, 2 * side)
    maps = {c: torch.zeros(1, channels[c], *(-(-length // s) for length in size)) for c, s in strides.items()}
    training = pyramid.training
    try:
        outputs = pyramid.eval()(maps)
    except Exception as error:  # of any code
        raise InputError(
            f"model.detector.pyramid: {name} cannot read the backbone's outputs, with channels {channels} and strides "
            f"{strides}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    pyramid.train(training)
    actual = [(p, *output.shape[1:]) for p, output in outputs.items()]
    declared = [(p, pyramid.out_channels, *(-(-length // s) for length in size)) for p, s in pyramid.strides.items()]
    if actual != declared:
        raise InputError(
            f"model.detector.pyramid: {name} declares {declared} (name, channels, height, width) for an image of "
            f"{size[0]} x {size[1]}, but its maps are {actual}. Correct its out_channels and strides."
        )

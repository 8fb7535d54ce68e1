"""The feature pyramids that the paper compares (FPN §3, Tables 1 and 2): maps p_k from the backbone's maps c_k.

Shape shorthand: N images, C_k channels of c_k, d channels of every p_k (256 in the paper), H_k x W_k size of level k.

A pyramid is built from the channels and strides of the backbone's outputs: ``FPN(in_channels, strides, out_channels)``.
A pyramid declares the channels and strides of its own maps; the heads use the declared channels and strides.

All pyramids except :class:`SingleMap` have three parts. *Lateral* 1x1 convolutions turn each c_k into a map with d
channels. A *merge*, which differs between pyramids, combines the lateral outputs into maps m_k. *Output* 3x3
convolutions turn each m_k into p_k. No non-linearity follows the lateral and output convolutions (FPN §3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpn_lightning.errors import InputError
from fpn_lightning.models.convolution import Conv2d


def init_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Initialise a convolution in place, as in Detectron's FPN: weights Xavier-uniform over the fan-in, biases 0."""
    nn.init.kaiming_uniform_(conv.weight, a=1)  # a=1 gives Caffe2's XavierFill
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv


def level_of(name: str) -> int:
    """Return the level k of a name ``ck`` or ``pk``."""
    return int(name[1:])


def upsample_to(feature: Tensor, finer: Tensor) -> Tensor:
    """Upsample a map by nearest neighbour to the height and width of ``finer``.

    The upsampling factor is 2. If a side of ``finer`` is odd, the last row or column of the upsampled map is left out.
    """
    return F.interpolate(feature, size=finer.shape[-2:], mode="nearest")


class Pyramid(nn.Module):
    """Base class of pyramids.

    Attributes:
        out_channels: channels of every map.
        strides: stride of each map in network-input pixels, finest first, ``{"p2": 4, ...}``.
        used: names of the backbone's outputs that the pyramid reads; the backbone may drop all later layers.
    """

    out_channels: int
    strides: dict[str, int]
    used: tuple[str, ...]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute ``{"p2": (N, d, H_2, W_2), ...}`` from ``{"c2": (N, C_2, H_2, W_2), ...}``, both finest first."""
        raise NotImplementedError


class SingleMap(Pyramid):
    """One output of the backbone, unchanged (FPN Fig. 1(b)).

    The paper uses c4 in rows (a) and c5 in rows (b) of its tables. The RPN has anchors of all sizes on this single map.

    Args:
        in_channels: ``{"c2": C_2, ...}``.
        strides: ``{"c2": s_2, ...}``.
        out_channels: ignored; the map keeps its channels.
        level: level of the map, 4 or 5.

    Raises:
        InputError: if the backbone has no map of level ``level``.
    """

    def __init__(
        self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256, level: int = 4
    ) -> None:
        super().__init__()
        if f"c{level}" not in in_channels:
            raise InputError(
                f"model.detector.pyramid: the backbone has no map of level {level}, only {', '.join(in_channels)}. "
                "Set model.detector.pyramid.level to the number in one of these names."
            )
        self.level = level
        self.used = (f"c{level}",)
        self.out_channels = in_channels[f"c{level}"]
        self.strides = {f"p{level}": strides[f"c{level}"]}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Pyramid.forward`."""
        return {f"p{self.level}": features[f"c{self.level}"]}


class MergedPyramid(Pyramid):
    """Base class of pyramids with lateral convolutions, a merge and output convolutions.

    Subclasses define the merge. A pyramid with p5 also has p6, which is p5 subsampled with stride 2. Only the RPN reads
    p6 (FPN §4.1).

    Args:
        in_channels: ``{"c2": C_2, ..., "c5": C_5}``, finest first.
        strides: ``{"c2": s_2, ..., "c5": s_5}``.
        out_channels: d.

    Attributes:
        laterals: slice of the list of levels (finest first): the levels that have a lateral convolution.
        outputs: slice of the list of levels (finest first): the levels that have an output convolution.
    """

    laterals = slice(None)
    outputs = slice(None)

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.used = tuple(in_channels)
        self.levels = [level_of(name) for name in in_channels]
        self.top = self.levels[-1]
        self.lateral_convs = nn.ModuleDict(
            {f"p{k}": init_conv(Conv2d(in_channels[f"c{k}"], out_channels, 1)) for k in self.levels[self.laterals]}
        )
        output_levels = self.levels[self.outputs]
        self.output_convs = nn.ModuleDict(
            {f"p{k}": init_conv(Conv2d(out_channels, out_channels, 3, padding=1)) for k in output_levels}
        )
        self.strides = {f"p{k}": strides[f"c{k}"] for k in output_levels}
        if self.top in output_levels:
            self.strides[f"p{self.top + 1}"] = 2 * strides[f"c{self.top}"]

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Compute the maps m_k: a dictionary from level k to ``(N, d, H_k, W_k)``."""
        raise NotImplementedError

    def coarser(self, top: Tensor) -> dict[str, Tensor]:
        """Compute the one map coarser than ``top``: every second row and column of ``top`` (P6 in the paper)."""
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
    """The Feature Pyramid Network (FPN §3, Fig. 1(d)), rows (c) of the paper's tables.

    The arguments are those of :class:`MergedPyramid`. The coarsest map is m5 = lateral(c5). The finer maps are
    m_k = lateral(c_k) + upsampled m_(k+1).
    """

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Add the upsampled coarser map to each lateral output."""
        merged = {self.top: self.lateral(features, self.top)}
        for k in reversed(self.levels[:-1]):
            lateral = self.lateral(features, k)
            merged[k] = lateral.add_(upsample_to(merged[k + 1], lateral))  # in place to save memory
        return merged


class BottomUpPyramid(MergedPyramid):
    """A pyramid without a top-down path, similar to SSD (FPN Fig. 1(c)), rows (d) of the paper's tables.

    The arguments are those of :class:`MergedPyramid`.
    """

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Return the lateral outputs unchanged: m_k = lateral(c_k)."""
        return {k: self.lateral(features, k) for k in self.levels}


class SSDPyramid(BottomUpPyramid):
    """A bottom-up pyramid without p2 and p3, like SSD (FPN §1): p4 and p5 from c4 and c5, and new maps p6 and p7.

    The arguments are those of :class:`MergedPyramid`.
    """

    def __init__(self, in_channels: dict[str, int], strides: dict[str, int], out_channels: int = 256) -> None:
        used = {name: count for name, count in in_channels.items() if level_of(name) >= 4}
        super().__init__(used, strides, out_channels)
        added = {f"p{self.top + i}": 2**i * strides[f"c{self.top}"] for i in (1, 2)}
        self.strides |= added
        self.extra_convs = nn.ModuleDict(
            {name: init_conv(Conv2d(out_channels, out_channels, 3, stride=2, padding=1)) for name in added}
        )

    def coarser(self, top: Tensor) -> dict[str, Tensor]:
        """Compute p6 from p5 and p7 from p6, each by a ReLU and a 3x3 convolution with stride 2."""
        outputs = {}
        for name, conv in self.extra_convs.items():
            outputs[name] = top = conv(F.relu(top))
        return outputs


class TopDownPyramid(MergedPyramid):
    """A pyramid with a top-down path but without lateral connections, rows (e) of the paper's tables.

    The arguments are those of :class:`MergedPyramid`. The coarsest map is m5 = lateral(c5). Every finer map m_k is
    m_(k+1), upsampled to the size of c_k; c_k itself is not added.
    """

    laterals = slice(-1, None)

    def merge(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Upsample the coarsest lateral output to every level."""
        merged = {self.top: self.lateral(features, self.top)}
        for k in reversed(self.levels[:-1]):
            merged[k] = upsample_to(merged[k + 1], features[f"c{k}"])
        return merged


class FinestLevel(FPN):
    """Only the finest map of FPN, rows (f) of the paper's tables.

    The RPN has anchors of all sizes on this map. The arguments are those of :class:`MergedPyramid`.
    """

    outputs = slice(1)  # no output convolutions for unused maps: DDP would wait for their gradients


@torch.no_grad()
def check_pyramid(pyramid: Pyramid, channels: dict[str, int], strides: dict[str, int]) -> None:
    """Compute a pyramid's maps from zeros, and compare them with the channels and strides that the pyramid declares.

    Args:
        pyramid: the pyramid to check.
        channels: channels of the backbone's outputs.
        strides: strides of the backbone's outputs.

    Raises:
        InputError: if the pyramid cannot read the backbone's outputs, or if names, channels or sizes of its maps differ
            from the declared values.
    """
    name, coarsest = type(pyramid).__name__, max(strides.values())
    # The image is exactly as large as 1 x 2 cells of the coarsest map, so that a map with a wrong stride has a wrong
    # size.
    side = min(max(coarsest, *pyramid.strides.values()), 4 * coarsest)
    size = (side, 2 * side)
    maps = {c: torch.zeros(1, channels[c], *(-(-length // s) for length in size)) for c, s in strides.items()}
    training = pyramid.training
    try:
        outputs = pyramid.eval()(maps)
    except Exception as error:  # the pyramid may be a user's class, which can raise any exception
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
            f"{size[0]} x {size[1]}, but its maps are {actual}. Correct out_channels and strides of {name}."
        )

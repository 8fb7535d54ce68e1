"""Folding of frozen BatchNorm layers into the preceding convolutions (ResNet App. A freezes BatchNorm).

A frozen BatchNorm multiplies each channel by a constant (scale) and adds another constant (shift). A convolution with
scaled weights and a bias gives the same result: ``scale * (W * x) + shift = (scale W) * x + shift``. Folding avoids two
passes over each map: the multiplication and the addition. In mixed precision, folding also avoids float32 copies of the
maps. Every forward pass scales the weights again, so that gradients reach the unscaled weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.models.convolution import Conv2d

# A function that pads an input, given the kernel size, strides and dilations of a convolution.
Pad = Callable[[Tensor, Sequence[int], Sequence[int], Sequence[int]], Tensor]


class FoldedNorm(FrozenBatchNorm2d):
    """Stores the tensors of a frozen BatchNorm under their usual names.

    The preceding convolution applies the scale and the shift of this BatchNorm. timm's BatchNorm layers include an
    activation ``act``, which :class:`FoldedNorm` computes.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__(len(norm.get_buffer("weight")), norm.eps)
        self.act = getattr(norm, "act", nn.Identity())
        for name, value in norm.named_buffers():
            setattr(self, name, value)

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return the scale and the shift of each channel, ``(C,)`` each."""
        scale = self.get_buffer("weight") * (self.get_buffer("running_var") + self.eps).rsqrt()
        return scale, self.get_buffer("bias") - self.get_buffer("running_mean") * scale

    def forward(self, x: Tensor) -> Tensor:
        """Apply only the activation, if any: the convolution has already applied the BatchNorm's scale and shift."""
        return self.act(x)


class FoldedConv2d(Conv2d):
    """A convolution and the frozen BatchNorm after it, in one layer. The layer shares the parameters of ``conv``."""

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm, pad: Pad | None = None) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
            # A layer on the meta device draws no random numbers, so layers that are built later get the same initial
            # weights as without folding.
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self._norm = (norm,)  # a tuple hides `norm` from torch; the parent module registers it
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise ``(N, C, H, W)``."""
        scale, shift = self._norm[0].constants()
        if self.bias is not None:
            shift = shift + self.bias * scale
        if self.pad is not None:
            x = self.pad(x, self.kernel_size, self.stride, self.dilation)
        scaled = self.weight * scale[:, None, None, None]
        if not scaled.requires_grad or torch.compiler.is_compiling():
            return self._conv_forward(x, scaled, shift)

        # The backward pass scales the weights again. Keeping the scaled weights until then would double the memory for
        # weights. keep() compares addresses, because a reference to `scaled` in keep() would hold `scaled` in memory.
        address = scaled.data_ptr()

        def keep(saved: Tensor) -> Tensor | None:
            return None if saved.data_ptr() == address else saved

        def restore(saved: Tensor | None) -> Tensor:
            return self.weight * scale[:, None, None, None] if saved is None else saved

        with saved_tensors_hooks(keep, restore):
            return self._conv_forward(x, scaled, shift)


def pad_multiples(x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Pad a map like ``timm.layers.pad_same``; the map's sides must be multiples of the stride.

    ``pad_same`` adds the same padding to all maps whose height and width are multiples of the stride. ``pad_same``
    computes the padding from the map size, and ``torch.export`` would take ten minutes to analyse this computation.
    """
    padding: list[int] = []
    for kernel, step, spread in zip(kernel_size[::-1], stride[::-1], dilation[::-1], strict=True):
        both = max(0, (kernel - 1) * spread + 1 - step)
        padding += [both // 2, both - both // 2]
    return F.pad(x, padding)


def fold_frozen_norms(model: nn.Module, timm: ModuleType | None = None) -> None:
    """Fold every frozen BatchNorm, in place, into the convolution that is defined directly before the BatchNorm.

    Args:
        model: the model.
        timm: the package timm if the model is from timm, which has its own classes of layers; else ``None``.
    """
    norms: tuple[type, ...] = (FrozenBatchNorm2d,)
    pads: dict[type, Pad | None] = {nn.Conv2d: None}
    if timm is not None:
        norms += (timm.layers.FrozenBatchNormAct2d,)
        pads[timm.layers.Conv2dSame] = timm.layers.pad_same
    for parent in list(model.modules()):
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and type(conv) in pads and isinstance(norm, norms):
                folded = FoldedNorm(norm)
                setattr(parent, conv_name, FoldedConv2d(conv, folded, pads[type(conv)]))
                setattr(parent, norm_name, folded)

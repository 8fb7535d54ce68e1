"""Frozen BatchNorm as a part of the convolution before it (ResNet App. A freezes it).

A frozen BatchNorm multiplies each channel by a constant and adds one. The convolution can do both, with scaled weights
and a bias: ``scale * (W * x) + shift = (scale W) * x + shift``. This saves two passes over each map and, in mixed
precision, float32 copies of the maps. The weights are scaled anew in every pass, so that gradients reach them.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldedNorm(FrozenBatchNorm2d):
    """A frozen BatchNorm that the convolution before it applies. It keeps the tensors under their usual names."""

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        super().__init__(len(norm.get_buffer("weight")), norm.eps)
        for name, value in norm.named_buffers():
            setattr(self, name, value)

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return the scale and the shift of each channel, ``(C,)`` each."""
        scale = self.get_buffer("weight") * (self.get_buffer("running_var") + self.eps).rsqrt()
        return scale, self.get_buffer("bias") - self.get_buffer("running_mean") * scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, which is already normalised."""
        return x


class FoldedConv2d(nn.Conv2d):
    """A convolution that also applies the frozen BatchNorm after it; it takes over the parameters of ``conv``."""

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
            device="meta",  # draws no random numbers: a seed has to keep its weights
        )
        self.weight, self.bias = conv.weight, conv.bias
        self._norm = (norm,)  # a tuple, so that it is not registered twice

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise ``(N, C, H, W)``."""
        scale, shift = self._norm[0].constants()
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)


def fold_frozen_norms(model: nn.Module) -> None:
    """Fold every frozen BatchNorm of a model into the convolution that is defined just before it, in place."""
    for parent in list(model.modules()):
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                folded = FoldedNorm(norm)
                setattr(parent, conv_name, FoldedConv2d(conv, folded))
                setattr(parent, norm_name, folded)

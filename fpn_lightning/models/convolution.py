"""3x3 convolutions on the CPU by Winograd's algorithm (Lavin and Gray, CVPR 2016).

For 6 x 6 output pixels and one pair of input and output channels, oneDNN needs 324 multiplications and NNPACK's
Winograd algorithm needs 64. torch calls oneDNN by default, and NNPACK only for batches of 16 or more images. The
rounding errors of NNPACK are 4e-6 times the standard deviation of the outputs, four times as large as those of oneDNN.
``torch.backends.nnpack.set_flags(False)`` switches NNPACK off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

# conv3x3 is called only for maps with at least these numbers of channels and of pixels. For fewer channels or
# pixels, NNPACK is slower than oneDNN, because every call of NNPACK transforms the weights.
MIN_CHANNELS, MIN_PIXELS = 64, 2500
# Maps with more than this number of pixels are convolved in parts, because NNPACK needs more memory for a larger input.
MAX_PIXELS = 2**14
_NO_STRIDE = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, transposed, output padding, groups


@torch.library.custom_op("fpn_lightning::conv3x3", mutates_args=(), device_types="cpu")
def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a 3x3 convolution with stride 1 and padding 1, and its gradient with respect to ``x``, by NNPACK.

    Args:
        x: float32 ``(N, C, H, W)``.
        weight: float32 ``(D, C, 3, 3)``.
        bias: float32 ``(D,)``.

    Returns:
        ``(N, D, H, W)``, contiguous.
    """
    height, width = x.shape[2:]
    parts = -(-height * width // MAX_PIXELS)
    rows = -(-height // parts)
    output = x.new_empty(len(x), len(weight), height, width) if parts > 1 or len(x) > 1 else None
    for n in range(len(x)):  # one image at a time, because NNPACK is much slower on larger batches
        for start in range(0, height, rows):
            end = min(start + rows, height)
            part = x[n : n + 1, :, max(0, start - 1) : end + 1]
            part = F.pad(part, (0, 0, int(start == 0), int(end == height)))  # zeros above and below the image
            convolved = torch._nnpack_spatial_convolution(part, weight, bias, [0, 1], [1, 1])
            if output is None:
                return convolved
            output[n, :, start:end] = convolved[0]
    assert output is not None
    return output


@conv3x3.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[2], x.shape[3])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    needs_grad_x, *others = ctx.needs_input_grad
    grad_weight = grad_bias = None
    # The call below copies `x` and `grad`, so it needs extra memory. Compute `grad_x` only afterwards, so that `grad_x`
    # and these copies are not in memory at the same time.
    if any(others):
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], *_NO_STRIDE, [False, *others]
        )
    if not needs_grad_x:
        return None, grad_weight, grad_bias
    # The gradient of `x` is the convolution of `grad` with the weights rotated by 180 degrees.
    grad_x = conv3x3(grad.contiguous(), weight.flip(2, 3).transpose(0, 1).contiguous(), None)
    return grad_x, grad_weight, grad_bias


conv3x3.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.fpn_lightning.conv3x3)
def _flops(x: torch.Size, weight: torch.Size, bias: Any, *, out_shape: torch.Size) -> int:
    return conv_flop_count(list(x), list(weight), list(out_shape))


class Conv2d(nn.Conv2d):
    """A convolution that calls :func:`conv3x3` for large float32 maps on a CPU, where NNPACK is faster."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._conv3x3_is_faster(input, weight):
            return conv3x3(input, weight, bias)
        return super()._conv_forward(input, weight, bias)

    def _conv3x3_is_faster(self, x: Tensor, weight: Tensor) -> bool:
        return (
            self.kernel_size == (3, 3)
            and self.stride == self.padding == self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
            and x.device.type == "cpu"
            and x.dtype == weight.dtype == torch.float32
            and min(weight.shape[:2]) >= MIN_CHANNELS
            and x.shape[2] * x.shape[3] >= MIN_PIXELS
            and x.is_contiguous()
            and not torch.compiler.is_exporting()  # runtimes of exported models lack the custom operator conv3x3
            and not torch.is_autocast_enabled("cpu")
            and _nnpack_is_on()
        )


@torch.compiler.assume_constant_result
def _nnpack_is_on() -> bool:
    return torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()

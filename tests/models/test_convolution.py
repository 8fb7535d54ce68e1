"""3x3 convolutions by Winograd's algorithm: torch's numbers, forward and backward, and where they are used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fpn_lightning.models import convolution
from fpn_lightning.models.convolution import Conv2d

pytestmark = pytest.mark.skipif(not torch.backends.nnpack.is_available(), reason="NNPACK does not know this processor")


def made(layer: Conv2d, x: torch.Tensor) -> list[str]:
    """Run a layer; returns the convolutions that were called."""
    with torch.profiler.profile() as profile:
        layer(x)
    names = {"fpn_lightning::conv3x3", "aten::mkldnn_convolution", "aten::_slow_conv2d_forward"}
    return sorted(names & {event.key for event in profile.key_averages()})


def pair(images: int, bias: bool = True) -> tuple[Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    return Conv2d(64, 96, 3, padding=1, bias=bias), torch.randn(images, 64, 50, 53, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_outputs_and_gradients_are_those_of_float64(bias):
    layer, x = pair(2, bias)
    assert made(layer, x) == ["fpn_lightning::conv3x3"]
    weights = torch.randn(2, 96, 50, 53)
    ours = layer(x)
    inputs = [x, *layer.parameters()]
    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    theirs = F.conv2d(*exact, padding=1)
    expected = torch.autograd.grad((theirs * weights).sum(), exact)
    for own, other in zip((ours, *gradients), (theirs, *expected), strict=True):
        assert (own - other).abs().max() < 1e-4 * other.std()


def test_an_image_has_the_same_numbers_in_every_batch():
    layer, x = pair(3)
    assert torch.equal(layer(x)[1:2], layer(x[1:2]))


@pytest.mark.parametrize(
    ("layer", "side", "dtype"),
    [
        (Conv2d(64, 64, 3, padding=1), 50, torch.float64),
        (Conv2d(64, 64, 3, padding=1), 20, torch.float32),
        (Conv2d(64, 16, 3, padding=1), 50, torch.float32),
        (Conv2d(64, 64, 3, padding=1, stride=2), 50, torch.float32),
        (Conv2d(64, 64, 3), 52, torch.float32),
        (Conv2d(64, 64, 1, padding=1), 50, torch.float32),
        (Conv2d(64, 64, 3, padding=1, groups=2), 50, torch.float32),
        (Conv2d(64, 64, 3, padding=2, dilation=2), 50, torch.float32),
    ],
    ids=["float64", "small map", "few channels", "stride", "no padding", "1x1", "groups", "dilation"],
)
def test_other_convolutions_are_torchs(layer, side, dtype):
    x = torch.randn(1, 64, side, side, dtype=dtype)
    assert "fpn_lightning::conv3x3" not in made(layer.to(dtype), x)


def test_torchs_own_switch_turns_it_off():
    layer, x = pair(1)
    with torch.backends.nnpack.flags(enabled=False):
        assert made(layer, x) == ["aten::mkldnn_convolution"]


def test_flops_are_those_of_a_convolution():
    layer, x = pair(2)
    counts = []
    for enabled in (True, False):
        with FlopCounterMode(display=False) as counter, torch.backends.nnpack.flags(enabled=enabled):
            layer(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_parts_of_a_large_map_join(monkeypatch):
    layer, x = pair(2)
    whole = layer(x)
    monkeypatch.setattr(convolution, "MAX_PIXELS", 700)
    assert (layer(x) - whole).abs().max() < 1e-4 * whole.std()

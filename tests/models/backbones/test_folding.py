"""Frozen BatchNorm folded into convolutions: the same outputs and gradients, under the same names."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import make_layers
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.models.backbones.efficientnet_lite import EfficientNetLiteBackbone
from fpn_lightning.models.backbones.folding import FoldedConv2d, FoldedNorm, fold_frozen_norms, pad_multiples
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.backbones.timm import TimmBackbone


def vgg_layers(norm_layer: type[nn.Module]) -> nn.Sequential:
    """Convolutions with a bias before their BatchNorm."""
    layers = make_layers([8, "M", 16], batch_norm=True)
    layers[1], layers[5] = norm_layer(8), norm_layer(16)
    return layers


MODELS = {
    "resnet18": lambda norm: resnet18(norm_layer=norm),
    "bottleneck": lambda norm: ResNet(Bottleneck, [1, 1, 1, 1], norm_layer=norm),
    "mobilenet_v2": lambda norm: mobilenet_v2(norm_layer=norm, dropout=0.0),
    "vgg": vgg_layers,
}


def with_statistics(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        noise = torch.rand(buffer.shape, generator=generator)
        buffer.copy_(noise - 0.5 if "mean" in name or "bias" in name else noise + 0.5)
    return model.double()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_outputs_and_gradients_stay_the_same(build):
    torch.manual_seed(0)
    model = with_statistics(build(FrozenBatchNorm2d))
    folded = copy.deepcopy(model)
    fold_frozen_norms(folded)
    assert FrozenBatchNorm2d not in {type(module) for module in folded.modules()}
    assert list(folded.state_dict()) == list(model.state_dict())
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    outputs = [module(pixels) for module in (model, folded)]
    assert torch.allclose(*outputs, rtol=1e-9, atol=1e-12)
    for output in outputs:
        output.square().mean().backward()
    for parameter, other in zip(model.parameters(), folded.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-9, atol=1e-9 * parameter.grad.abs().max())


def test_scaled_weights_are_not_kept_for_the_backward_pass(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8))
    fold_frozen_norms(model)
    convolve, scaled = FoldedConv2d._conv_forward, []
    monkeypatch.setattr(
        FoldedConv2d,
        "_conv_forward",
        lambda self, x, weight, bias: (scaled.append(weakref.ref(weight)), convolve(self, x, weight, bias))[1],
    )
    output = model(torch.randn(1, 3, 9, 9))
    assert [reference() for reference in scaled] == [None]
    output.sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_a_backbone_is_folded_with_the_weights_of_its_seed():
    torch.manual_seed(0)
    backbone = ResNetBackbone("resnet18")
    torch.manual_seed(0)
    weights = resnet18(norm_layer=FrozenBatchNorm2d).state_dict()
    assert torch.equal(backbone.stages[3][1].conv2.weight, weights["layer4.1.conv2.weight"])
    assert FrozenBatchNorm2d not in {type(module) for module in backbone.modules()}


def test_copies_and_loaded_weights_use_their_own_statistics():
    backbone = ResNetBackbone("resnet18")
    other = copy.deepcopy(backbone)
    other.load_state_dict({name: 2 * tensor for name, tensor in backbone.state_dict().items()})
    pixels = torch.randn(1, 3, 64, 64)
    before = backbone.features(pixels)["c5"]
    assert not torch.equal(other.features(pixels)["c5"], before)
    backbone.load_state_dict(other.state_dict())
    assert torch.equal(backbone.features(pixels)["c5"], other.features(pixels)["c5"])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_100"])
def test_models_of_timm_stay_the_same(name):
    timm = pytest.importorskip("timm", reason="the optional extra timm is not installed")
    torch.manual_seed(0)
    model = with_statistics(timm.layers.freeze_batch_norm_2d(timm.create_model(name, features_only=True))).eval()
    folded = copy.deepcopy(model)
    fold_frozen_norms(folded, timm)
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {FrozenBatchNorm2d, timm.layers.FrozenBatchNormAct2d}
    assert list(folded.state_dict()) == list(model.state_dict())
    pixels = torch.randn(2, 3, 97, 64, dtype=torch.float64)
    for ours, theirs in zip(folded(pixels), model(pixels), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())
        (ours.square().mean() + theirs.square().mean()).backward(retain_graph=True)
    for parameter, other in zip(model.parameters(), folded.parameters(), strict=True):
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, other.grad, rtol=1e-9, atol=1e-9 * parameter.grad.abs().max())


@pytest.mark.parametrize("build", [EfficientNetLiteBackbone, partial(TimmBackbone, "resnet18", norm="frozen")])
def test_backbones_of_timm_are_folded(build):
    timm = pytest.importorskip("timm", reason="the optional extra timm is not installed")
    kinds = {type(module) for module in build(weights="weights.pth").modules()}
    assert FoldedNorm in kinds
    assert not kinds & {FrozenBatchNorm2d, timm.layers.FrozenBatchNormAct2d}


def test_a_norm_after_another_layer_is_not_folded():
    """A model whose norm is defined after a convolution but applied to something else keeps it."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(self.norm(x))]

    pytest.importorskip("timm", reason="the optional extra timm is not installed")
    assert not TimmBackbone._folding_keeps(TimmBackbone.__new__(TimmBackbone), Odd())


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [((3, 3), (2, 2), (1, 1)), ((5, 3), (1, 2), (1, 2))])
def test_padding_of_multiples_is_timms(kernel, stride, dilation):
    timm = pytest.importorskip("timm")
    x = torch.randn(1, 2, 8, 12)
    assert torch.equal(pad_multiples(x, kernel, stride, dilation), timm.layers.pad_same(x, kernel, stride, dilation))

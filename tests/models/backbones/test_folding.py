"""Frozen BatchNorm folded into convolutions: the same outputs and gradients, under the same names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import make_layers
from torchvision.ops import FrozenBatchNorm2d

from fpn_lightning.models.backbones.folding import fold_frozen_norms
from fpn_lightning.models.backbones.resnet import ResNetBackbone


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

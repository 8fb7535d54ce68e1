"""Backbones: declared shapes, preprocessing, freezing, and loading weights from files."""

import pytest
import torch
import torchvision
from torch import nn

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from tests.models.builders import image_batch


def from_scratch(name="resnet18", norm="batch"):
    return ResNetBackbone(name, weights=None, norm=norm, frozen_stages=0)


@pytest.mark.parametrize(
    "backbone",
    [from_scratch(), from_scratch("resnet50"), from_scratch(norm="group"), NarrowResNet()],
    ids=str.__class__,
)
def test_declared_strides_and_channels_are_true(backbone):
    features = backbone(image_batch([(64, 96)]))
    assert list(features) == ["c2", "c3", "c4", "c5"]
    for name, feature in features.items():
        stride = backbone.strides[name]
        assert tuple(feature.shape) == (1, backbone.channels[name], 64 // stride, 96 // stride)


def test_resnet_equals_torchvision(tmp_path):
    reference = torchvision.models.resnet18(weights=None).eval().double()
    path = tmp_path / "resnet18.pth"
    torch.save(reference.state_dict(), path)
    backbone = ResNetBackbone("resnet18", weights=str(path), norm="frozen").eval().double()
    backbone.load_weights()
    batch = image_batch([(64, 64)])
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(backbone.normalize(batch)))))
    for name, layer in zip(("c2", "c3", "c4", "c5"), "1234", strict=True):
        x = getattr(reference, f"layer{layer}")(x)
        assert torch.allclose(backbone(batch)[name], x, atol=1e-5)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
    with pytest.raises(InputError, match=r"resnet34\.pth.*do not fit resnet18.*stages\.0\.2\S+ is not used"):
        ResNetBackbone("resnet18", weights=str(path)).load_weights()
    with pytest.raises(InputError, match="neither a file nor one of torchvision's"):
        ResNetBackbone("resnet18", weights="nowhere.pth").load_weights()


def test_normalisation_by_hand_and_zero_padding():
    batch = image_batch([(32, 32), (20, 10)])
    batch.pixels[1, :, :20, :10] = 255
    pixels = NarrowResNet().normalize(batch)
    white = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert torch.allclose(pixels[1, :, 5, 5], white, atol=1e-4)
    assert (pixels[1, :, 20:, :] == 0).all()
    assert (pixels[1, :, :, 10:] == 0).all()
    assert (pixels[0] != 0).any()


@pytest.mark.parametrize(
    ("convention", "mean"), [("caffe", [102.9801, 115.9465, 122.7717]), ("detectron2", [103.53, 116.28, 123.675])]
)
def test_bgr_conventions_swap_channels_and_move_the_stride(convention, mean):
    backbone = ResNetBackbone("resnet50", weights="R-50.pth", convention=convention)
    batch = image_batch([(32, 32)])
    batch.pixels[:] = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    blue_green_red = backbone.normalize(batch)[0, :, 0, 0].tolist()
    assert blue_green_red == pytest.approx([30 - mean[0], 20 - mean[1], 10 - mean[2]], abs=1e-4)
    first = backbone.stages[1][0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_norm_eps_reaches_every_layer(norm):
    weights = None if norm == "group" else "R-18.pth"
    backbone = ResNetBackbone("resnet18", weights=weights, norm=norm, frozen_stages=0, norm_eps=0.25)
    layers = [module for module in backbone.modules() if hasattr(module, "eps")]
    assert len(layers) == 20
    assert {layer.eps for layer in layers} == {0.25}


def test_a_batch_does_not_depend_on_its_companions():
    torch.manual_seed(0)
    backbone = from_scratch().eval()
    alone, together = image_batch([(64, 64)]), image_batch([(64, 64), (64, 64)])
    assert torch.equal(alone.pixels[0], together.pixels[0])
    assert torch.allclose(backbone(alone)["c5"][0], backbone(together)["c5"][0], atol=1e-5)


def test_frozen_statistics_and_stages_do_not_move(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    backbone = ResNetBackbone("resnet18", weights=str(path), norm="frozen", frozen_stages=2)
    backbone.load_weights()
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        backbone(image_batch([(64, 64)], seed=step))["c5"].square().mean().backward()
        optimizer.step()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".conv" in name or "downsample.0" in name for name in moved)  # no BatchNorm buffer or affine
    assert not any(name.startswith(("stem.", "stages.0.")) for name in moved)


def test_live_batchnorm_of_frozen_stages_does_not_drift(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    backbone = ResNetBackbone("resnet18", weights=str(path), norm="batch", frozen_stages=2)
    backbone.load_weights()
    backbone.train()
    assert not backbone.stem[1].training
    assert any(module.training for module in backbone.stages[2].modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": None}, "norm 'frozen' without weights"),
        ({"weights": "IMAGENET1K_V1", "norm": "group"}, "cannot use the BatchNorm statistics"),
        ({"weights": None, "norm": "batch"}, "frozen_stages > 0 without weights"),
        ({"weights": "IMAGENET1K_V2", "convention": "caffe"}, "set convention to 'torchvision'"),
        ({"frozen_stages": 7}, "has to be in 0..5"),
    ],
)
def test_arguments_that_do_not_fit_together_are_rejected(arguments, message):
    with pytest.raises(InputError, match=message):
        ResNetBackbone("resnet50", **arguments)


def test_shallow_c2_sees_less_than_a_deep_one():
    # The receptive field of one c2 cell, measured by which input pixels have a gradient.
    def field(blocks):
        backbone = NarrowResNet(blocks=blocks).eval()
        pixels = torch.randn(1, 3, 64, 64, requires_grad=True)
        backbone.features(pixels)["c2"][0, :, 16, 16].sum().backward()
        return int((pixels.grad.abs().sum(1)[0].sum(0) > 0).sum())

    assert field((0, 1, 1, 1)) == 3
    assert field((1, 1, 1, 1)) == 11

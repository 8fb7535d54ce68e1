"""Backbones of timm, if it is installed."""

import sys

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.timm import TimmBackbone
from tests.models.backbones.builders import check_gradients, one_step, saved, trained_batchnorm
from tests.models.builders import image_batch


def test_timm_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'fpn_lightning\[timm\]'"):
        TimmBackbone("resnet18", norm="batch")


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="the optional extra timm is not installed")


@pytest.mark.parametrize(
    ("name", "norm", "channels"),
    [
        ("resnet18", "batch", [64, 128, 256, 512]),
        ("mobilenetv2_050", "batch", [16, 16, 48, 160]),
        ("efficientnet_b0", "batch", [24, 40, 112, 320]),
        ("convnext_atto", None, [40, 80, 160, 320]),
        ("hrnet_w18_small", "batch", [128, 256, 512, 1024]),
    ],
)
def test_declared_strides_and_channels_are_true(timm, name, norm, channels):
    backbone = TimmBackbone(name, norm=norm)
    assert list(backbone.channels.items()) == list(zip(["c2", "c3", "c4", "c5"], channels, strict=True))
    features = backbone(image_batch([(93, 131)]))  # padded to 96 x 160
    for level, feature in features.items():
        stride = backbone.strides[level]
        assert tuple(feature.shape) == (1, backbone.channels[level], 96 // stride, 160 // stride)
    if name != "hrnet_w18_small":
        check_gradients(one_step(backbone))


def test_maps_are_named_by_their_stride(timm):
    backbone = TimmBackbone("resnet18", norm="batch", map_strides=(2, 8))
    assert backbone.strides == {"c1": 2, "c3": 8}
    assert backbone.channels == {"c1": 64, "c3": 128}
    assert not any(name.startswith("body.layer3") for name in backbone.state_dict())  # layers after c3 are dropped


@pytest.mark.parametrize(
    ("name", "norm"), [("resnet18", "frozen"), ("efficientnet_b0", "frozen"), ("convnext_atto", None)]
)
def test_weights_from_a_file_equal_timm(timm, name, norm, tmp_path):
    torch.manual_seed(0)
    reference = trained_batchnorm(timm.create_model(name))
    backbone = TimmBackbone(name, weights=saved(reference, tmp_path), norm=norm).eval()
    backbone.load_weights()
    batch = image_batch([(64, 64)])
    with torch.no_grad():
        wanted = reference.forward_intermediates(backbone.normalize(batch), intermediates_only=True)
        found = backbone(batch)
    by_stride = {64 // feature.shape[-1]: feature for feature in wanted}
    for level, feature in found.items():
        reference_map = by_stride[backbone.strides[level]]
        assert torch.allclose(feature, reference_map, rtol=1e-4, atol=1e-4 * float(reference_map.abs().max())), level


def test_frozen_batchnorm_does_not_move(timm, tmp_path):
    path = saved(trained_batchnorm(timm.create_model("resnet18")), tmp_path)
    backbone = TimmBackbone("resnet18", weights=path, norm="frozen")
    backbone.load_weights()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    stage = one_step(backbone)
    torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not any("bn" in name or "downsample.1" in name for name in moved)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_stages_do_not_move(timm, tmp_path, norm):
    path = saved(trained_batchnorm(timm.create_model("resnet18")), tmp_path)
    backbone = TimmBackbone("resnet18", weights=path, norm=norm, frozen_stages=3)
    backbone.load_weights()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    for _ in range(2):
        stage = one_step(backbone)
        torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in moved} == {"layer3", "layer4"}
    assert any(name.endswith("running_var") for name in moved) == (norm == "batch")


def test_weights_that_do_not_fit_are_named(timm, tmp_path):
    path = saved(timm.create_model("resnet34"), tmp_path)
    with pytest.raises(InputError, match=r"weights\.pth.*do not fit resnet18: layer1\.2\S+ is not used"):
        TimmBackbone("resnet18", weights=path, norm="batch").load_weights()
    model = timm.create_model("resnet18")
    state = {name: value for name, value in model.state_dict().items() if name != "layer2.0.conv1.weight"}
    torch.save(state, path)
    with pytest.raises(InputError, match=r"layer2\.0\.conv1\.weight is missing"):
        TimmBackbone("resnet18", weights=path, norm="batch").load_weights()


def test_preprocessing_is_the_models_own(timm):
    # Big Transfer's images are scaled to [-1, 1].
    backbone = TimmBackbone("resnetv2_50x1_bit")
    assert backbone.pixel_mean.flatten().tolist() == pytest.approx([127.5] * 3)
    assert not any(name.startswith("pixel_") for name in backbone.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "resnet81"}, r"Unknown model.*Similar names: resnet18"),
        ({"model_name": "resnet18"}, "has BatchNorm; set norm"),
        ({"model_name": "resnet18", "norm": "frozen"}, "norm 'frozen' without weights"),
        ({"model_name": "convnext_atto", "norm": "batch"}, "has no BatchNorm; set norm to null"),
        ({"model_name": "vit_tiny_patch16_224"}, r"has maps at strides \[16\]"),
        ({"model_name": "swin_tiny_patch4_window7_224"}, "accepts only one image size"),
        ({"model_name": "resnet18", "norm": "batch", "frozen_stages": 2}, "would freeze random filters"),
        (
            {"model_name": "resnet18", "norm": "batch", "weights": "FILE", "frozen_stages": 6},
            r"frozen_stages is 6\. Set frozen_stages to 0, or to k .*; k has to be one of 2, 3, 4, 5\.",
        ),
        (
            {"model_name": "resnet18", "norm": "batch", "map_strides": [8, 4]},
            "Set map_strides to ascending powers of two",
        ),
        (
            {"model_name": "resnet18", "norm": "batch", "map_strides": [4, 12]},
            "Set map_strides to ascending powers of two",
        ),
    ],
)
def test_models_that_cannot_be_backbones_are_rejected(timm, arguments, message):
    with pytest.raises(InputError, match=message):
        TimmBackbone(**arguments)


def test_a_missing_file_is_named(timm):
    with pytest.raises(InputError, match=r"'nowhere\.pth' is neither a file nor 'pretrained'"):
        TimmBackbone("resnet18", weights="nowhere.pth", norm="frozen").load_weights()

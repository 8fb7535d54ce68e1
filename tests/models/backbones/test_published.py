"""Weights of torchvision from files: features equal torchvision's, and tensors that do not fit are named."""

from functools import partial
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.backbones.torchvision import (
    ConvNeXtBackbone,
    EfficientNetBackbone,
    MobileNetV2Backbone,
    VGGBackbone,
)
from fpn_lightning.state_dicts import read_state_dict
from tests.models.backbones.builders import saved, trained_batchnorm
from tests.models.builders import image_batch


def taps(model, x, indices):
    """Return the outputs of some layers of torchvision's ``features`` sequence."""
    outputs = []
    for index, layer in enumerate(model.features):
        x = layer(x)
        if index in indices:
            outputs.append(x)
    return outputs


class LikeResNet(nn.Module):
    """torchvision's ResNet as one sequence."""

    def __init__(self, model):
        super().__init__()
        stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        self.features = nn.Sequential(stem, model.layer1, model.layer2, model.layer3, model.layer4)


# Indices: last layer before the next subsampling, read off torchvision's printed models.
ROUND_TRIPS = {
    "resnet18": (partial(ResNetBackbone, "resnet18"), "frozen", (1, 2, 3, 4)),
    "resnext50_32x4d": (partial(ResNetBackbone, "resnext50_32x4d"), "frozen", (1, 2, 3, 4)),
    "vgg16": (partial(VGGBackbone, "vgg16"), None, (15, 22, 29, 30)),
    "vgg16_bn": (partial(VGGBackbone, "vgg16_bn"), "frozen", (22, 32, 42, 43)),
    "mobilenet_v2": (MobileNetV2Backbone, "frozen", (3, 6, 13, 17)),
    "efficientnet_b0": (partial(EfficientNetBackbone, "efficientnet_b0"), "frozen", (2, 3, 5, 7)),
    "efficientnet_b2": (partial(EfficientNetBackbone, "efficientnet_b2"), "batch", (2, 3, 5, 7)),
    "convnext_tiny": (ConvNeXtBackbone, None, (1, 3, 5, 7)),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_features_equal_torchvision(name, tmp_path):
    make, norm, indices = ROUND_TRIPS[name]
    if name.startswith("vgg"):  # without the 0.5 GB classifier
        reference = nn.Module()
        reference.features = torchvision.models.vgg.make_layers(
            torchvision.models.vgg.cfgs["D"], batch_norm=name == "vgg16_bn"
        )
        reference = trained_batchnorm(reference)
    else:
        reference = trained_batchnorm(torchvision.models.get_model(name, weights=None))
    path = saved(reference, tmp_path)
    backbone = (make(weights=path) if make is ConvNeXtBackbone else make(weights=path, norm=norm)).eval()
    backbone.load_weights()
    batch = image_batch([(64, 64)])
    whole = LikeResNet(reference) if name.startswith("res") else reference
    with torch.no_grad():
        wanted = taps(whole, backbone.normalize(batch), indices)
        found = backbone(batch)
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) == (norm == "batch")
    assert len(wanted) == 4
    for reference_map, own_map in zip(wanted, found.values(), strict=True):
        assert torch.allclose(own_map, reference_map, rtol=1e-4, atol=1e-4 * float(reference_map.abs().max()))


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = saved(torchvision.models.mobilenet_v2(weights=None, width_mult=0.5), tmp_path)
    with pytest.raises(InputError, match=r"weights\.pth.*mobilenet_v2: .*stages\.0\.2\.conv\.\S+ is .* in the file"):
        MobileNetV2Backbone(path).load_weights()
    half = MobileNetV2Backbone(path, width_mult=0.5)
    half.load_weights()
    state = torch.load(path, weights_only=True)
    del state["features.3.conv.2.weight"]
    state["features.17.surplus"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(
        InputError, match=r"stages\.0\.3\.conv\.2\.weight is missing, stages\.3\.17\.surplus is not used"
    ):
        half.load_weights()


def test_safetensors_are_read(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    save_file({"a.weight": torch.arange(3.0)}, path)
    assert read_state_dict(path, "backbone.weights")["a.weight"].tolist() == [0, 1, 2]


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code from a weights file was run",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"a": Evil()}, path)
    with pytest.raises(InputError, match=r"evil\.pth.*cannot be read"):
        read_state_dict(str(path), "backbone.weights")
    assert "was run" not in capsys.readouterr().out


def test_weights_that_cannot_be_fetched_name_the_address_and_the_cache(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    for call in (MobileNetV2Backbone().download_weights, MobileNetV2Backbone().load_weights):
        with pytest.raises(InputError, match=r"IMAGENET1K_V1 could not be fetched from https://.*mobilenet_v2.*pth"):
            call()


def test_fetched_weights_are_those_in_torchs_cache(monkeypatch, tmp_path):
    # The file of a download is put into the cache by hand, so that no network is needed.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    member = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    reference = trained_batchnorm(torchvision.models.mobilenet_v2(weights=None))
    torch.save(reference.state_dict(), cache / member.url.rpartition("/")[2])
    backbone = MobileNetV2Backbone()
    backbone.download_weights()
    backbone.load_weights()
    assert torch.equal(backbone.stem[0][0].weight, reference.features[0][0].weight)
    assert torch.equal(backbone.stages[3][-1].conv[-1].running_var, reference.features[17].conv[-1].running_var)

"""Backbones of torchvision: declared shapes, arguments that fit together, gradients, frozen parts."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.backbones.torchvision import (
    ConvNeXtBackbone,
    EfficientNetBackbone,
    MobileNetV2Backbone,
    VGGBackbone,
)
from fpn_lightning.parser import Parser
from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
from tests.models.backbones.builders import check_gradients, one_step, saved
from tests.models.builders import image_batch

SCRATCH = {"weights": None, "frozen_stages": 0}
BATCH = SCRATCH | {"norm": "batch"}
SMALL_MOBILENET = partial(MobileNetV2Backbone, **BATCH, width_mult=0.25, first_stride=2)
SMALL_EFFICIENTNET = partial(EfficientNetBackbone, **BATCH, width_mult=0.25, depth_mult=0.5, first_stride=2)
BACKBONES = {
    "resnet18": partial(ResNetBackbone, "resnet18", **BATCH),
    "resnet18_group": partial(ResNetBackbone, "resnet18", **SCRATCH, norm="group"),
    "resnext50_32x4d": partial(ResNetBackbone, "resnext50_32x4d", **BATCH),
    "vgg16": partial(VGGBackbone, "vgg16", **SCRATCH),
    "vgg16_bn": partial(VGGBackbone, "vgg16_bn", **BATCH),
    "mobilenet_v2": partial(MobileNetV2Backbone, **BATCH),
    "mobilenet_v2_group": partial(MobileNetV2Backbone, **SCRATCH, norm="group"),
    "mobilenet_v2_small": SMALL_MOBILENET,
    "efficientnet_b0": partial(EfficientNetBackbone, "efficientnet_b0", **BATCH),
    "efficientnet_small": SMALL_EFFICIENTNET,
    "convnext_tiny": partial(ConvNeXtBackbone, **SCRATCH),
    "narrow_resnet": NarrowResNet,
}
BACKBONES |= {f"efficientnet_b{i}": partial(EfficientNetBackbone, f"efficientnet_b{i}", **BATCH) for i in range(1, 5)}
HEAVY = {f"resnext101_{shape}": partial(ResNetBackbone, f"resnext101_{shape}", **BATCH) for shape in ("32x8d", "64x4d")}
every_backbone = pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name) for name, make in BACKBONES.items()]
    + [pytest.param(make, id=name, marks=pytest.mark.slow) for name, make in HEAVY.items()],
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def declared(backbone):
    return list(backbone.channels.values()), list(backbone.strides.values())


@every_backbone
def test_declared_strides_and_channels_are_true(make):
    backbone = make()
    features = backbone(image_batch([(93, 131), (64, 160)]))  # padded to 96 x 160
    assert list(features) == ["c2", "c3", "c4", "c5"] == list(backbone.channels) == list(backbone.strides)
    for name, feature in features.items():
        stride = backbone.strides[name]
        assert tuple(feature.shape) == (2, backbone.channels[name], 96 // stride, 160 // stride)
    assert backbone.training
    backbone.check_declared(96, 160)
    assert backbone.training


def test_declarations_by_hand():
    assert declared(BACKBONES["vgg16"]()) == ([256, 512, 512, 512], [4, 8, 16, 32])
    assert declared(BACKBONES["mobilenet_v2"]()) == ([24, 32, 96, 320], [4, 8, 16, 32])
    assert declared(BACKBONES["efficientnet_b0"]()) == ([24, 40, 112, 320], [4, 8, 16, 32])
    assert declared(BACKBONES["convnext_tiny"]()) == ([96, 192, 384, 768], [4, 8, 16, 32])
    # A quarter of 24, 32, 96, 320 is 6, 8, 24, 80; nothing has fewer than 8 channels.
    assert declared(SMALL_MOBILENET()) == ([8, 8, 24, 80], [2, 4, 8, 16])
    # A quarter of 112 is 28, rounded to 32.
    assert declared(SMALL_EFFICIENTNET()) == ([8, 16, 32, 80], [2, 4, 8, 16])


def test_a_false_declaration_is_noticed():
    backbone = SMALL_MOBILENET()
    backbone.strides = {name: 2 * stride for name, stride in backbone.strides.items()}
    with pytest.raises(InputError, match=r"MobileNetV2Backbone declares .*\('c2', 8, 16, 24\).*\('c2', 8, 32, 48\)"):
        backbone.check_declared(64, 96)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (VGGBackbone, {"weights": "IMAGENET1K_FEATURES"}, "trained with a pixel mean and standard deviation"),
        (VGGBackbone, {"norm": "frozen"}, "vgg16 has no BatchNorm"),
        (VGGBackbone, {"name": "vgg16_bn"}, "vgg16_bn needs norm"),
        (MobileNetV2Backbone, {"width_mult": 0.5}, "fit only width_mult 1, not 0.5"),
        (MobileNetV2Backbone, {"weights": None, "norm": "batch", "frozen_stages": 1}, "would freeze random filters"),
        (MobileNetV2Backbone, BATCH | {"width_mult": 0.0}, "width_mult is 0.0; it has to be positive"),
        (EfficientNetBackbone, {"depth_mult": 0.5}, "fit only depth_mult 1, not 0.5"),
        (EfficientNetBackbone, {"weights": None, "frozen_stages": 0}, "norm 'frozen' without weights"),
        (ConvNeXtBackbone, {"weights": None}, "would freeze random filters"),
    ],
)
def test_arguments_that_do_not_fit_together_are_rejected(make, arguments, message):
    with pytest.raises(InputError, match=message):
        make(**arguments)


@every_backbone
def test_one_training_step_reaches_every_parameter(make):
    stage = one_step(make())
    check_gradients(stage)
    moved = [bool(parameter.grad.any()) for parameter in stage.detector.backbone.parameters()]
    assert sum(moved) > 0.9 * len(moved)  # dead ReLUs of a random backbone leave a few untouched


@pytest.mark.parametrize(
    "key", ["model.detector.backbone.weights", "model.init_args.detector.backbone.init_args.weights"]
)
def test_null_weights_on_the_command_line_are_none(key):
    parser = Parser()
    parser.add_lightning_class_args(FasterRCNNStage, "model", subclass_mode=True)
    backbone = "--model.detector.backbone"
    arguments = [
        "--model=fpn_lightning.FasterRCNNStage",
        f"{backbone}=fpn_lightning.models.backbones.MobileNetV2Backbone",
        f"--{key}=null",
        *(f"{backbone}.norm=batch", f"{backbone}.frozen_stages=0"),
    ]
    stage = parser.instantiate(parser.parse_args(arguments)).model
    assert isinstance(stage.detector.backbone, MobileNetV2Backbone)
    assert stage.detector.backbone.weights is None


def test_frozen_vgg_keeps_conv1_and_conv2(tmp_path):
    reference = nn.Module()
    reference.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    backbone = VGGBackbone(weights=saved(reference, tmp_path))
    frozen = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d) and not layer.weight.requires_grad]
    assert [layer.out_channels for layer in frozen] == [64, 64, 128, 128]


def test_a_training_step_draws_no_random_numbers():
    # Stochastic depth would: a resumed run would then differ from an uninterrupted one.
    for make in (SMALL_EFFICIENTNET, BACKBONES["convnext_tiny"]):
        backbone = make().train()
        state = torch.get_rng_state()
        backbone(image_batch([(32, 32), (32, 32)]))
        assert torch.equal(torch.get_rng_state(), state)


def test_first_stride_two_sees_twice_as_fine():
    coarse = MobileNetV2Backbone(**BATCH, width_mult=0.25)
    fine = SMALL_MOBILENET()
    assert {name: value.shape for name, value in coarse.state_dict().items()} == {
        name: value.shape for name, value in fine.state_dict().items()
    }
    pixels = torch.zeros(1, 3, 64, 64)
    for name, feature in fine.features(pixels).items():
        assert feature.shape[-1] == 2 * coarse.features(pixels)[name].shape[-1]

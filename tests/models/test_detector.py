"""The composition of a detector: what it rejects, and that a stage uses the weights of its backbone at every start."""

from __future__ import annotations

from functools import partial

import pytest
from lightning.pytorch import Trainer

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones import NarrowResNet
from fpn_lightning.models.box_head import TwoFCHead, check_box_head
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.pyramids import FPN, Pyramid
from fpn_lightning.stages.rpn import RPNStage


class Undeclared(Pyramid):
    """A pyramid that declares only its strides."""

    def __init__(self, channels: dict[str, int], strides: dict[str, int], out_channels: int) -> None:
        super().__init__()
        self.strides = strides


def test_image_scales_are_rejected_where_no_head_reads_them():
    assert Detector(NarrowResNet(), roi_heads=None, channels=8, image_scales=(0.5, 1.0)).image_scales == (0.5, 1.0)
    with pytest.raises(InputError, match=r"model\.detector\.image_scales needs a detector with only an RPN"):
        Detector(NarrowResNet(), channels=8, image_scales=(0.5, 1.0))


def test_a_pyramid_that_does_not_declare_its_maps_is_named():
    with pytest.raises(InputError, match=r"model\.detector\.pyramid: Undeclared does not set out_channels, used"):
        Detector(NarrowResNet(), Undeclared, roi_heads=None)


class Declares(FPN):
    """An FPN that declares other strides, channels or maps than it has."""

    def __init__(self, *args, strides=None, out_channels=None, dropped="", reads=None) -> None:
        super().__init__(*args)
        self.strides |= strides or {}
        self.out_channels = out_channels or self.out_channels
        self.strides.pop(dropped, None)
        self.lateral_convs["p2"] = self.lateral_convs[reads or "p2"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strides": {"p3": 8}}, r"Declares declares .*\('p3', 8, 4, 8\).* 32 x 64, but .*\('p3', 8, 8, 16\)"),
        ({"strides": {"p6": 64}}, "but its maps are"),  # one cell, where the map has one row of two
        ({"strides": {"p6": 16}}, "but its maps are"),
        ({"strides": {"p6": 10**9}}, "but its maps are"),
        ({"out_channels": 16}, r"\('p2', 16, 16, 32\).*Correct out_channels and strides"),
        ({"dropped": "p6"}, "but its maps are"),
        ({"reads": "p5"}, "Declares cannot read the backbone's outputs, with channels {'c2': "),
    ],
)
def test_what_a_pyramid_declares_is_compared_with_a_forward_pass(wrong, message):
    good = Detector(NarrowResNet(), Declares, roi_heads=None, channels=8)
    assert good.pyramid.training
    assert list(good.pyramid.strides.values()) == [2, 4, 8, 16, 32]
    with pytest.raises(InputError, match=message):
        Detector(NarrowResNet(), partial(Declares, **wrong), roi_heads=None, channels=8)


def test_what_a_box_head_declares_is_compared_with_a_forward_pass():
    check_box_head(TwoFCHead(4, 8), 4)
    with pytest.raises(InputError, match="TwoFCHead cannot read regions of 5 channels and 7 x 7 cells"):
        check_box_head(TwoFCHead(4, 8), 5)
    head = TwoFCHead(4, 8)
    head.out_features = 9
    with pytest.raises(InputError, match=r"TwoFCHead declares 9 features, but .* has shape \(1, 8\)"):
        check_box_head(head, 4)


@pytest.mark.parametrize("phases", [["validate", "fit", "validate"], ["fit", "validate"]])
def test_the_backbone_gets_its_weights_once_and_before_the_first_evaluation(monkeypatch, phases):
    loaded = []
    monkeypatch.setattr(NarrowResNet, "load_weights", lambda self: loaded.append(self))
    stage = RPNStage(Detector(NarrowResNet(), roi_heads=None, channels=8))
    stage.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_steps=1)
    stage.setup(phases[0])
    assert loaded == [stage.detector.backbone]
    for phase in phases[1:]:  # trained weights must stay
        stage.setup(phase)
    assert len(loaded) == 1

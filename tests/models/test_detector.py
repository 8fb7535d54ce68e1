"""The composition of a detector: what it rejects, and that a stage uses the weights of its backbone at every start."""

from __future__ import annotations

import pytest
from lightning.pytorch import Trainer

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones import NarrowResNet
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.pyramids import Pyramid
from fpn_lightning.stages.rpn import RPNStage


class Undeclared(Pyramid):
    """A pyramid that declares only its strides."""

    def __init__(self, channels: dict[str, int], strides: dict[str, int], out_channels: int) -> None:
        super().__init__()
        self.strides = strides


def test_image_scales_are_rejected_where_no_head_reads_them():
    assert Detector(NarrowResNet(), roi_heads=None, channels=8, image_scales=(0.5, 1.0)).image_scales == (0.5, 1.0)
    with pytest.raises(InputError, match=r"model\.detector\.image_scales is for an RPN alone"):
        Detector(NarrowResNet(), channels=8, image_scales=(0.5, 1.0))


def test_a_pyramid_that_does_not_declare_its_maps_is_named():
    with pytest.raises(InputError, match=r"model\.detector\.pyramid: Undeclared does not set out_channels, used"):
        Detector(NarrowResNet(), Undeclared, roi_heads=None)


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

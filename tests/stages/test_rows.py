"""In every row all parameters get a gradient, since DDP waits for each of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchvision

from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Anchors, Detector, Scale
from fpn_lightning.models.pyramids import FPN, BottomUpPyramid, FinestLevel, SingleMap, SSDPyramid, TopDownPyramid
from fpn_lightning.models.rpn import RPN
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch
from tests.models.builders import image_batch, targets

ROWS = {
    "a": partial(SingleMap, level=4),
    "b": partial(SingleMap, level=5),
    "c": FPN,
    "d": BottomUpPyramid,
    "e": TopDownPyramid,
    "f": FinestLevel,
    "ssd": SSDPyramid,
}


@pytest.mark.parametrize("row", ROWS)
def test_every_parameter_is_trained(row):
    torch.manual_seed(0)
    octaves = [[0, 1, 2, 3, 4]] if row in "abf" else [[i] for i in range(5)]
    rpn = RPN
    if row == "ssd":
        octaves, rpn = [[0, 1], [2], [3], [4]], partial(RPN, shared_head=False)
    detector = Detector(
        NarrowResNet(),
        ROWS[row],
        rpn,
        roi_heads=None,
        channels=8,
        anchors=Anchors(octaves),
        scale=Scale(base_anchor_size=8),
    )
    stage = RPNStage(detector)
    truth = [targets([[10, 10, 40, 50]]), targets([])]
    sum(stage.losses(Batch(image_batch([(64, 64), (64, 64)]), truth)).values()).backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []


def test_row_a_leaves_conv5_out_and_still_loads_weights(tmp_path):
    reference = torchvision.models.resnet18(weights=None)
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNetBackbone("resnet18", weights=str(tmp_path / "resnet18.pth"))
    detector = Detector(backbone, ROWS["a"], roi_heads=None, anchors=Anchors([[0, 1, 2, 3, 4]]))
    assert list(backbone.channels) == ["c2", "c3", "c4"]
    backbone.load_weights()
    assert torch.equal(detector.backbone.stages[2][0].conv1.weight, reference.layer3[0].conv1.weight)
    assert not [name for name in detector.state_dict() if "stages.3" in name]

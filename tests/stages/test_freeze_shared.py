"""Steps 3 and 4 of sharing: no bit of backbone and pyramid changes, with frozen or live BatchNorm; the head trains."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchvision
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.detector import Detector, Scale
from fpn_lightning.models.pyramids import FPN, BottomUpPyramid, TopDownPyramid
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.fast_rcnn import FastRCNNStage
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.stages.rpn import RPNStage
from tests.stages.test_fast_rcnn import make_batch

SHARED = ("detector.backbone.", "detector.pyramid.")
OPTIMIZATION = Optimization(lr=0.01, warmup_steps=0)


def make_rpn(backbone, pyramid=FPN, **options) -> RPNStage:
    torch.manual_seed(1)
    detector = Detector(backbone, pyramid, roi_heads=None, channels=8, scale=Scale(base_anchor_size=8))
    return RPNStage(detector, optimization=OPTIMIZATION, **options)


def make_fast_rcnn(backbone, pyramid=FPN, **options) -> FastRCNNStage:
    torch.manual_seed(1)
    heads = partial(RoIHeads, batch_size_per_image=16)
    detector = Detector(backbone, pyramid, rpn=None, roi_heads=heads, fc_width=16, channels=8, num_classes=3)
    return FastRCNNStage(detector, optimization=OPTIMIZATION, **options)


def narrow(_):
    return NarrowResNet()


def frozen_norm(folder):
    path = folder / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return ResNetBackbone("resnet18", weights=str(path))


def fit(stage: BaseStage) -> BaseStage:
    """Two steps on one batch."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stage, DataLoader([make_batch()] * 2, batch_size=None))
    return stage


@pytest.mark.parametrize("backbone", [narrow, frozen_norm])
@pytest.mark.parametrize("make", [make_rpn, make_fast_rcnn])
def test_only_the_head_changes(make, backbone, tmp_path):
    detector = make_fast_rcnn(backbone(tmp_path))
    # values that a new model does not have
    state = {name: (value * 1.1 + 0.001).to(value.dtype) for name, value in detector.state_dict().items()}
    path = tmp_path / "detector.ckpt"
    torch.save({"state_dict": state}, path)
    stage = fit(make(backbone(tmp_path), init_from=str(path), freeze_shared=True))
    after = stage.state_dict()
    shared = [name for name in after if name.startswith(SHARED)]
    assert shared == [name for name in state if name.startswith(SHARED)]
    assert all(torch.equal(after[name], state[name]) for name in shared)
    assert any(name.endswith("running_mean") for name in shared)
    before = state if make is make_fast_rcnn else make_rpn(backbone(tmp_path)).state_dict()
    heads = [name for name, _ in stage.named_parameters() if not name.startswith(SHARED)]
    assert heads
    assert [name for name in heads if torch.equal(after[name], before[name])] == []


def test_without_freezing_the_same_steps_change_the_backbone(tmp_path):
    path = tmp_path / "detector.ckpt"
    state = {name: value.clone() for name, value in make_rpn(NarrowResNet()).state_dict().items()}
    torch.save({"state_dict": state}, path)
    after = fit(make_rpn(NarrowResNet(), init_from=str(path))).state_dict()
    assert [name for name in after if name.startswith(SHARED) and torch.equal(after[name], state[name])] == []


def test_frozen_parts_stay_in_evaluation_mode():
    stage = make_fast_rcnn(NarrowResNet(), init_from="any.ckpt", freeze_shared=True).train()
    modes = {name: module.training for name, module in stage.detector.named_children()}
    assert (modes["backbone"], modes["pyramid"], modes["roi_heads"]) == (False, False, True)


def test_nothing_is_frozen_at_random_values(tmp_path):
    with pytest.raises(InputError, match=r"model\.freeze_shared .* model\.init_from"):
        make_rpn(NarrowResNet(), freeze_shared=True)
    path = tmp_path / "top_down.ckpt"
    state = make_fast_rcnn(NarrowResNet(), pyramid=TopDownPyramid).state_dict()
    torch.save({"state_dict": state}, path)
    other = partial(make_rpn, pyramid=BottomUpPyramid, init_from=str(path))
    with pytest.raises(
        InputError,
        match=r"lacks tensors of this configuration's pyramid: pyramid\.lateral_convs.* with the same pyramid",
    ):
        fit(other(NarrowResNet(), freeze_shared=True))
    fit(other(NarrowResNet()))  # without freezing, a checkpoint with another pyramid is allowed

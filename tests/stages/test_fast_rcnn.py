"""The Fast R-CNN stage: every parameter is trained, losses and detections for the pyramids of Table 2."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Detector, Scale
from fpn_lightning.models.pyramids import FPN, SingleMap
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.stages.fast_rcnn import FastRCNNStage
from fpn_lightning.structures import Batch
from tests.models.builders import annotated, image_batch, labelled, random_proposals
from tests.stages.test_rows import ROWS

PYRAMIDS = [(ROWS["a"], "conv5"), *((ROWS[row], "2fc") for row in "bcdef")]


def make_stage(pyramid=FPN, head="2fc", **options) -> FastRCNNStage:
    torch.manual_seed(0)
    heads = partial(RoIHeads, batch_size_per_image=16, **options)
    detector = Detector(
        NarrowResNet(),
        pyramid,
        rpn=None,
        roi_heads=heads,
        box_head=head,
        fc_width=16,
        channels=8,
        num_classes=3,
        scale=Scale(canonical_size=56),
    )
    return FastRCNNStage(detector)


def make_batch() -> Batch:
    """Two images, the second without an object."""
    images = image_batch([(64, 96), (80, 64)])
    truth = [labelled([[10, 10, 40, 50], [5, 20, 90, 60]], [0, 2]), labelled([], [])]
    files = [annotated(target, n) for n, target in enumerate(truth)]
    return Batch(images, truth, files, [random_proposals(40, 64, 96), random_proposals(40, 80, 64, seed=1)])


@pytest.mark.parametrize(("pyramid", "head"), PYRAMIDS, ids=["a", "b", "c", "d", "e", "f"])
def test_every_parameter_is_trained(pyramid, head):
    stage = make_stage(pyramid, head)
    losses = stage.losses(make_batch())
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []


def test_the_conv5_head_takes_its_stage_from_the_backbone():
    stage, fc = make_stage(partial(SingleMap, level=4), "conv5"), make_stage(partial(SingleMap, level=4))
    stage, fc = stage.detector, fc.detector
    assert list(stage.backbone.channels) == list(fc.backbone.channels) == ["c2", "c3", "c4"]
    conv5 = [name for name in stage.state_dict() if name.startswith("roi_heads.box_head.stage.")]
    assert conv5
    assert not [name for name in stage.state_dict() if name.startswith("backbone.stages.3")]


def test_the_same_step_samples_the_same_regions():
    stage, batch = make_stage().eval(), make_batch()
    first, again = stage.losses(batch), stage.losses(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_detections_are_in_pixels_of_the_file_and_agree_with_the_maps():
    stage, batch = make_stage(score_thresh=0.0).eval(), make_batch()
    batch.images.geometries = [Geometry((128, 192), (64, 96)), Geometry((160, 128), (80, 64), flipped=True)]
    found = stage.predict_step(batch, 0)
    direct = stage.detector.roi_heads.predict(stage(batch.images), batch.proposals, batch.images.sizes)
    assert [len(image) for image in found] == [len(image) for image in direct]
    assert min(map(len, found)) > 50
    assert [image.image_id for image in found] == [0, 1]
    torch.testing.assert_close(found[0].boxes_orig, 2 * direct[0].boxes.double())
    x1, _, x2, _ = direct[1].boxes.double().unbind(dim=1)
    torch.testing.assert_close(found[1].boxes_orig[:, 0], 2 * (64 - x2))
    torch.testing.assert_close(found[1].boxes_orig[:, 2], 2 * (64 - x1))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(found, direct, strict=True))


def test_a_batch_without_proposals_says_where_they_come_from():
    stage, batch = make_stage(), make_batch()
    batch.proposals = []
    with pytest.raises(InputError, match=r"--data\.proposals RUN/proposals"):
        stage.losses(batch)
    with pytest.raises(InputError, match=r"--data\.predict_split"):
        stage.predict_step(batch, 0)

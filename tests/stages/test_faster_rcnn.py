"""The Faster R-CNN stage: all losses and parameters, and one forward pass for recall and precision."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Anchors, Detector, Scale
from fpn_lightning.models.pyramids import FPN, SingleMap
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.rpn import RPN
from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
from fpn_lightning.structures import Batch
from tests.models.builders import annotated, image_batch, labelled

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


def make_stage(pyramid=FPN, head="2fc", eval_proposals=50, octaves=((0,), (1,), (2,), (3,), (4,)), **options):
    torch.manual_seed(0)
    detector = Detector(
        NarrowResNet(),
        pyramid,
        partial(RPN, post_nms_topk=200),
        partial(RoIHeads, batch_size_per_image=16, **options),
        box_head=head,
        fc_width=16,
        channels=8,
        num_classes=3,
        anchors=Anchors(octaves),
        scale=Scale(base_anchor_size=8, canonical_size=56),
        eval_proposals=eval_proposals,
    )
    return FasterRCNNStage(detector)


def make_batch() -> Batch:
    """Two images, the second without an object."""
    images = image_batch([(64, 96), (80, 64)])
    truth = [labelled([[10, 10, 40, 50], [5, 20, 90, 60]], [0, 2]), labelled([], [])]
    return Batch(images, truth, [annotated(target, n) for n, target in enumerate(truth)])


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Number of images of every pass through a backbone."""
    seen: list[int] = []
    features = NarrowResNet.features

    def counted(self: NarrowResNet, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(pixels))
        return features(self, pixels)

    monkeypatch.setattr(NarrowResNet, "features", counted)
    return seen


@pytest.mark.parametrize(
    ("pyramid", "head", "octaves"),
    [
        (FPN, "2fc", ((0,), (1,), (2,), (3,), (4,))),
        (partial(SingleMap, level=4), "conv5", ((0, 1, 2, 3, 4),)),
        (partial(SingleMap, level=5), "2fc", ((0, 1, 2, 3, 4),)),
    ],
    ids=["fpn", "c4", "c5"],
)
def test_every_parameter_is_trained_in_one_pass(passes, pyramid, head, octaves):
    stage = make_stage(pyramid, head, octaves=octaves)
    losses = stage.losses(make_batch())
    assert passes == [2]
    assert set(losses) == LOSSES
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("part", ["objectness_logits", "anchor_deltas"])
def test_a_diverged_rpn_gives_nan_losses_and_every_gradient(part):
    # Raising here would stop one process while the others wait; on_before_optimizer_step stops all of them.
    stage = make_stage()
    with torch.no_grad():
        getattr(stage.detector.rpn.heads[0], part).bias[1] = torch.inf
    losses = stage.losses(make_batch())
    assert set(losses) == LOSSES
    assert losses["loss_rpn_cls"].isnan()
    assert losses["loss_rpn_loc"].isnan()
    sum(losses.values()).backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []


def test_a_batch_without_objects_trains():
    stage, batch = make_stage(), make_batch()
    batch.targets[0] = labelled([], [])
    losses = stage.losses(batch)
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in stage.parameters())


def test_the_roi_heads_losses_do_not_train_the_rpn():
    # The gradient of the RoI heads reaches backbone and pyramid through the pooled maps only.
    stage = make_stage()
    losses = stage.losses(make_batch())
    (losses["loss_cls"] + losses["loss_box_reg"]).backward()
    assert all(parameter.grad is None for parameter in stage.detector.rpn.parameters())
    assert stage.detector.pyramid.lateral_convs["p2"].weight.grad.any()


def test_the_same_step_samples_the_same_anchors_and_regions():
    stage, batch = make_stage().eval(), make_batch()
    first, again = stage.losses(batch), stage.losses(batch)
    assert all(torch.equal(first[name], again[name]) for name in LOSSES)


@torch.no_grad()
def test_recall_and_precision_come_from_one_pass(passes):
    stage, batch = make_stage(score_thresh=0.0).eval(), make_batch()
    proposals, detections = stage.detector.propose_and_detect(batch.images)
    assert min(map(len, proposals)) > 50
    # The object to detect is the 20th proposal of the first image. Image files have the size of the network input.
    batch.ground_truths[0] = annotated(labelled(proposals[0].boxes[19:20].tolist(), [1]))
    passes.clear()
    stage.evaluate_batch(batch)
    assert passes == [2]
    values, num_images = stage.evaluation_result()
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR10", "AR30", "AR100", "AR1k", "AR1k_s"} <= values.keys()
    assert num_images == 2
    # It is not among the best 10 proposals.
    assert (values["AR10"], values["AR30"], values["AR1k"]) == (0, 1, 1)
    assert min(map(len, detections)) > 50


@torch.no_grad()
def test_the_best_proposals_go_to_the_roi_heads():
    images = make_batch().images
    stages = [make_stage(score_thresh=0.0, eval_proposals=count).eval() for count in (1, 50)]
    (all_of_one, single), (all_of_fifty, many) = (stage.detector.propose_and_detect(images) for stage in stages)
    assert [len(image) for image in all_of_one] == [len(image) for image in all_of_fifty]
    # One region gives each of the three classes at most one box.
    assert max(map(len, single)) <= 3 < min(map(len, many))


@torch.no_grad()
def test_predictions_are_detections_in_pixels_of_the_file():
    stage, batch = make_stage(score_thresh=0.0).eval(), make_batch()
    batch.images.geometries = [Geometry((128, 192), (64, 96)), Geometry((160, 128), (80, 64))]
    found = stage.predict_step(batch, 0)
    _, direct = stage.detector.propose_and_detect(batch.images)
    assert [image.image_id for image in found] == [0, 1]
    for image, other in zip(found, direct, strict=True):
        torch.testing.assert_close(image.boxes_orig, 2 * other.boxes.double())
        assert torch.equal(image.labels, other.labels)


def test_no_proposals_at_test_time_is_rejected():
    with pytest.raises(InputError, match=r"model\.detector\.eval_proposals is 0"):
        make_stage(eval_proposals=0)

"""RoI heads: sampled regions, losses and detections by hand, box heads and their weights."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import box_iou

from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.backbones.resnet import ResNetBackbone
from fpn_lightning.models.box_head import BoxPredictor, Conv5Head, TwoFCHead
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.pyramids import FPN, BottomUpPyramid, FinestLevel, SingleMap, TopDownPyramid
from fpn_lightning.models.roi_heads import RoIHeads, RoISample
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.structures import Proposals
from tests.models.builders import (
    check_that_a_batch_may_be_split,
    feature_maps,
    image_batch,
    labelled,
    proposals,
    random_proposals,
    targets,
)

STRIDES = {"p2": 4, "p3": 8}


def make_heads(num_classes: int = 3, **options) -> RoIHeads:
    torch.manual_seed(0)
    pooler = RoIPooler(STRIDES, 7, canonical_size=128)
    return RoIHeads(pooler, TwoFCHead(6, width=16), num_classes, **options)


features = partial(feature_maps, STRIDES)


class FixedHeads(RoIHeads):
    """RoI heads whose logits and deltas are given instead of computed."""

    def answer(self, logits, deltas) -> FixedHeads:
        self.answers = torch.tensor(logits), torch.tensor(deltas)
        return self

    def forward(self, features, boxes):
        return self.answers


def fixed_heads(logits, deltas, **options) -> FixedHeads:
    return FixedHeads(RoIPooler(STRIDES), TwoFCHead(6, width=4), num_classes=2, **options).answer(logits, deltas)


# ---- sampling ----------------------------------------------------------------------------------------------------


def test_regions_are_labelled_by_overlap():
    heads = make_heads()
    truth = labelled([[0, 0, 40, 40], [50, 0, 90, 40]], [2, 1])
    # IoU with the first object: 1600/2000 = 0.8; exactly 0.5; 0.4; with the second: 0.75; none
    boxes = [[0, 0, 40, 50], [0, 0, 40, 20], [0, 0, 40, 16], [50, 0, 90, 30], [0, 50, 30, 64]]
    sample = heads.sample([proposals(boxes)], [truth], torch.zeros(1, dtype=torch.int64))
    assert torch.equal(sample.boxes[0], torch.tensor([*boxes, [0, 0, 40, 40], [50, 0, 90, 40]], dtype=torch.float32))
    assert sample.labels.tolist() == [2, 2, 3, 1, 3, 2, 1]  # 3 is background; the objects themselves come last
    foreground = sample.labels < 3
    assert sample.matched_boxes[foreground][:, 0].tolist() == [0, 0, 50, 0, 50]


def test_a_quarter_is_positive_at_most():
    heads = make_heads(batch_size_per_image=64)
    truth = targets([[10, 10, 60, 60]])
    near = torch.tensor([10.0, 10, 60, 60]) + torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([70.0, 0, 90, 30]).expand(200, 4)
    sample = heads.sample([proposals(torch.cat((near, far)))], [truth], torch.tensor([7]))
    assert len(sample.labels) == 64
    assert (sample.labels < 3).sum() == 16
    # too few positives are replaced by background, too few of both leave the image short
    sample = heads.sample([proposals(far)], [truth], torch.tensor([7]))
    assert ((sample.labels < 3).sum(), len(sample.labels)) == (1, 64)
    sample = heads.sample([proposals(far[:5])], [truth], torch.tensor([7]))
    assert ((sample.labels < 3).sum(), len(sample.labels)) == (1, 6)


def test_a_sample_depends_on_its_image_alone():
    heads = make_heads(batch_size_per_image=32)
    truth = [targets([[8, 8, 40, 40]]), targets([]), targets([[0, 0, 60, 60], [30, 30, 40, 50]])]
    given = [random_proposals(n, 64, 96, seed=n) for n in (300, 40, 150)]
    seeds = image_seeds(0, 5, torch.tensor([3, 1, 2]))
    whole = heads.sample(given, truth, seeds)
    for n in range(3):
        alone = heads.sample(given[n : n + 1], truth[n : n + 1], seeds[n : n + 1])
        assert torch.equal(whole.boxes[n], alone.boxes[0])
        assert torch.equal(whole.labels.split([len(b) for b in whole.boxes])[n], alone.labels)
    other_step = heads.sample(given, truth, image_seeds(0, 6, torch.tensor([3, 1, 2])))
    assert not torch.equal(whole.boxes[0], other_step.boxes[0])


# ---- losses ------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    # Two regions of one image, K = 2. The first is class 1 with logits (0, ln 3, 0): p = 3 / 5. The second is
    # background with logits (0, 0, ln 2): p = 2 / 4. Losses are sums over 4 regions an image.
    heads = make_heads(num_classes=2, batch_size_per_image=4)
    logits = torch.tensor([[0.0, math.log(3), 0.0], [0.0, 0.0, math.log(2)]])
    boxes = torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60]])
    matched = torch.tensor([[1.0, 0, 21, 20], [0, 0, 1, 1]])
    sample = RoISample([boxes], torch.tensor([1, 2]), matched)
    deltas = torch.full((2, 8), 9.0)
    deltas[0, 4:] = torch.tensor([0.1, 0, 0, 0])
    losses = heads.losses_of_sample(logits, deltas, sample)
    assert losses["loss_cls"].item() == pytest.approx((math.log(5 / 3) + math.log(2)) / 4)
    # target dx = 10 * 1 / 20 = 0.5, off by 0.4 < beta: 0.4² / 2; the other class and the background cost nothing
    assert losses["loss_box_reg"].item() == pytest.approx(0.08 / 4)
    # beyond beta = 0.1 the loss is linear: 0.4 - 0.05; twice the weight
    heads = make_heads(num_classes=2, batch_size_per_image=4, smooth_l1_beta=0.1, box_weight=2.0)
    assert heads.losses_of_sample(logits, deltas, sample)["loss_box_reg"].item() == pytest.approx(2 * 0.35 / 4)


def test_splitting_a_batch_leaves_the_gradient_unchanged():
    heads = make_heads(batch_size_per_image=32)
    maps = features(count=3)
    truth = [targets([[8, 8, 40, 40]]), targets([]), targets([[0, 0, 60, 60], [30, 30, 40, 50]])]
    given = [random_proposals(n, 64, 96, seed=n) for n in (100, 5, 50)]
    seeds = image_seeds(0, 3, torch.arange(3))

    def losses(part):
        return heads.losses({k: v[part] for k, v in maps.items()}, given[part], truth[part], seeds[part])

    check_that_a_batch_may_be_split(heads, 3, losses)


@pytest.mark.parametrize("count", [0, 4])
def test_images_without_objects_give_finite_losses_and_gradients(count):
    heads = make_heads()
    maps = {name: value.requires_grad_() for name, value in features().items()}
    given = [random_proposals(count, 64, 96)] * 2
    losses = heads.losses(maps, given, [targets([]), targets([])], image_seeds(0, 0, torch.arange(2)))
    sum(losses.values()).backward()
    assert losses["loss_box_reg"].item() == 0
    assert (losses["loss_cls"].item() > 0) == (count > 0)
    for tensor in [*heads.parameters(), *maps.values()]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


# ---- detections --------------------------------------------------------------------------------------------------


def test_detections_by_hand():
    # K = 2; softmax of logs gives the probabilities back.
    probabilities = [[0.6, 0.3, 0.1], [0.5, 0.04, 0.46], [0.06, 0.9, 0.04], [0.02, 0.03, 0.95]]
    deltas = [[0.0] * 8 for _ in range(4)]
    deltas[2][4:] = [5.0, 0, 5 * math.log(2), 0]  # class 1: centre 5 / 10 of a width to the right, twice as wide
    boxes = [[0, 0, 20, 20], [2, 0, 22, 20], [40, 10, 60, 30], [0, 0, 90, 60]]
    heads = fixed_heads([[math.log(p) for p in row] for row in probabilities], deltas)
    (found,) = heads.predict({}, [proposals(boxes)], torch.tensor([[64, 70]]))
    # region 1 overlaps region 0 with 360 / 440 in class 0 and goes; 0.04 <= 0.05 goes; region 2 of class 1 has its
    # centre at 50 + 10 and width 40: 40..80, cut at the image's 70.
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.3, 0.06])
    expected = torch.tensor([[40.0, 10, 70, 30], [0, 0, 20, 20], [0, 0, 20, 20], [40, 10, 60, 30]])
    assert torch.allclose(found.boxes, expected, atol=1e-4)
    heads.detections_per_image = 2
    assert heads.predict({}, [proposals(boxes)], torch.tensor([[64, 70]]))[0].labels.tolist() == [1, 0]


def test_unused_logits_take_probability_but_are_never_detected():
    # Two classes, background, one unused logit that is most likely in the second region.
    probabilities = [[0.6, 0.12, 0.08, 0.2], [0.1, 0.02, 0.08, 0.8]]
    heads = fixed_heads([[math.log(p) for p in row] for row in probabilities], [[0.0] * 8] * 2, unused_logits=1)
    (found,) = heads.predict({}, [proposals([[0, 0, 20, 20], [40, 10, 60, 30]])], torch.tensor([[64, 70]]))
    assert found.labels.tolist() == [0, 1, 0]
    assert found.scores.tolist() == pytest.approx([0.6, 0.12, 0.1])
    logits, deltas = (answer.requires_grad_() for answer in heads.answers)
    sample = RoISample([torch.rand(2, 4).cumsum(dim=1)], torch.tensor([0, 2]), torch.rand(2, 4).cumsum(dim=1))
    loss = heads.losses_of_sample(logits, deltas, sample)["loss_cls"] * heads.sampler.batch_size_per_image
    assert loss.item() == pytest.approx(-math.log(0.6) - math.log(0.08))
    predictor = make_heads(num_classes=3, unused_logits=2).predictor
    assert (predictor.class_logits.out_features, predictor.box_deltas.out_features) == (6, 12)
    with pytest.raises(InputError, match="unused_logits is -1"):
        make_heads(unused_logits=-1)


def test_detections_are_sorted_inside_and_apart():
    heads = make_heads(num_classes=5, detections_per_image=40, score_thresh=0.1)
    nn.init.normal_(heads.predictor.class_logits.weight, std=1)
    nn.init.normal_(heads.predictor.box_deltas.weight, std=1)
    sizes = [(64, 96), (50, 70)]
    found = heads.predict(features(), [random_proposals(300, 64, 96, seed=n) for n in range(2)], torch.tensor(sizes))
    for detections, (height, width) in zip(found, sizes, strict=True):
        assert 20 < len(detections) <= 40
        assert (detections.scores[1:] <= detections.scores[:-1]).all()
        assert detections.scores.min() > 0.1
        assert (detections.boxes >= 0).all()
        assert (detections.boxes[:, 2] <= width).all()
        assert (detections.boxes[:, 3] <= height).all()
        same_class = detections.labels[:, None] == detections.labels
        assert (box_iou(detections.boxes, detections.boxes).fill_diagonal_(0)[same_class] <= 0.5 + 1e-5).all()


def test_same_detections_whatever_the_batch():
    heads = make_heads(score_thresh=0.2)
    given = [random_proposals(100, 64, 96), random_proposals(30, 64, 96, seed=1)]
    both = heads.predict(features(), given, torch.tensor([[64, 96], [64, 96]]))
    for n in range(2):
        maps = {name: value[n : n + 1] for name, value in features().items()}
        (alone,) = heads.predict(maps, given[n : n + 1], torch.tensor([[64, 96]]))
        assert len(alone) == len(both[n]) > 0
        assert torch.equal(alone.labels, both[n].labels)
        assert torch.allclose(alone.boxes, both[n].boxes, atol=1e-4)
        assert torch.allclose(alone.scores, both[n].scores, atol=1e-6)


def test_without_proposals_there_are_no_detections():
    found = make_heads().predict(features(), [random_proposals(0, 64, 96)] * 2, torch.tensor([[64, 96], [64, 96]]))
    assert [len(detections) for detections in found] == [0, 0]
    assert found[0].boxes.shape == (0, 4)


def test_diverged_outputs_are_rejected():
    heads = fixed_heads([[0.0, float("nan"), 0.0]], [[0.0] * 8])
    with pytest.raises(FloatingPointError, match="diverged"):
        heads.predict({}, [proposals([[0, 0, 9, 9]])], torch.tensor([[64, 96]]))


# ---- heads -------------------------------------------------------------------------------------------------------


def test_initial_weights_are_detectrons():
    torch.manual_seed(0)
    predictor = BoxPredictor(1024, 80)
    assert predictor.class_logits.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert predictor.box_deltas.weight.std().item() == pytest.approx(0.001, rel=0.02)
    head = TwoFCHead(256)
    assert head.fc1.weight.abs().max().item() == pytest.approx(math.sqrt(3 / (256 * 49)), rel=1e-3)  # Xavier, fan-in
    assert not any(layer.bias.any() for layer in (head.fc1, head.fc2, predictor.class_logits, predictor.box_deltas))


PYRAMIDS = {"b": SingleMap, "c": FPN, "d": BottomUpPyramid, "e": TopDownPyramid, "f": FinestLevel}


@pytest.mark.parametrize("row", PYRAMIDS)
def test_two_fc_head_fits_every_pyramid(row):
    pyramid = partial(SingleMap, level=5) if row == "b" else PYRAMIDS[row]
    detector = Detector(NarrowResNet(width=8), pyramid, rpn=None, channels=12, fc_width=20)
    boxes = [torch.tensor([[3.0, 3, 40, 60], [0, 0, 96, 64]])]
    pooled = detector.roi_heads.pooler(detector(image_batch([(64, 96)])), boxes)
    assert detector.roi_heads.box_head(pooled).shape == (2, 20)


def test_conv5_head_is_the_backbones_own_stage(tmp_path):
    reference = torchvision.models.resnet18(weights=None)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNetBackbone("resnet18", weights=str(tmp_path / "resnet18.pth"))
    detector = Detector(backbone, partial(SingleMap, level=4), rpn=None, box_head="conv5")
    head = detector.roi_heads.box_head
    assert isinstance(head, Conv5Head)
    assert (head.resolution, head.out_features) == (14, 512)
    assert list(backbone.channels) == list(backbone.strides) == ["c2", "c3", "c4"]
    assert not [name for name in backbone.state_dict() if name.startswith("stages.3")]
    assert all(parameter.requires_grad for parameter in head.parameters())
    backbone.load_weights()
    assert torch.equal(backbone.stages[2][0].conv1.weight, reference.layer3[0].conv1.weight)
    for name, value in head.stage.state_dict().items():
        assert torch.equal(value, reference.layer4.state_dict()[name]), name
    regions = torch.randn(3, 256, 14, 14)
    expected = reference.avgpool(reference.layer4.eval()(regions)).flatten(1)
    assert torch.allclose(head.eval()(regions), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pyramid", "message"),
    [
        (FPN, "the single map c4, but the pyramid is FPN with maps p2, p3, p4, p5, p6"),
        (partial(SingleMap, level=5), "the single map c4, but .* with maps p5"),
        (partial(SingleMap, level=3), "with maps p3"),
    ],
)
def test_conv5_head_reads_c4_only(pyramid, message):
    with pytest.raises(InputError, match=message):
        Detector(NarrowResNet(width=8), pyramid, rpn=None, box_head="conv5")


def test_stages_are_taken_from_the_end_and_nothing_between_is_dropped():
    backbone = NarrowResNet(width=8)
    with pytest.raises(InputError, match=r"only the last stage of .* can be moved into a box head, not c4"):
        backbone.take_stage("c4")
    backbone.take_stage("c5")
    with pytest.raises(InputError, match="the pyramid reads only c3"):
        backbone.keep(["c3"])


@pytest.mark.parametrize("option", ["num_classes", "batch_size_per_image", "detections_per_image"])
def test_counts_below_one_are_rejected(option):
    with pytest.raises(InputError, match=f"roi_heads: {option} is 0"):
        RoIHeads(RoIPooler(STRIDES), TwoFCHead(6, width=4), **{option: 0})


def test_degenerate_proposals_are_background():
    heads = make_heads()
    flat = Proposals(torch.tensor([[5.0, 5, 5, 30], [9, 9, 9, 9]]), torch.zeros(2), torch.full((2,), 2))
    maps, truth = features(count=1), [targets([[0, 0, 30, 30]])]
    sample = heads.sample([flat], truth, torch.tensor([0]))
    assert sample.labels.tolist() == [3, 3, 0]
    losses = heads.losses(maps, [flat], truth, torch.tensor([0]))
    assert all(loss.isfinite() for loss in losses.values())
    assert all(len(found.boxes) >= 0 for found in heads.predict(maps, [flat], torch.tensor([[64, 96]])))

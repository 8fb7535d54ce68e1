"""Our RoI heads against torchvision's, in float64 on the same maps and proposals.

Theirs takes background for class 0, ours for the last; theirs also has box deltas for background, which nothing reads.
The class logits are spread, since saturated scores would tie. Their losses are means over the regions of a batch, ours
sums over a fixed number; they are the same where every image has enough regions.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from fpn_lightning.models.box_head import TwoFCHead
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.structures import Proposals, Targets
from tests.models.builders import labelled, random_proposals, targets

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
CHANNELS, WIDTH, NUM_CLASSES, REGIONS = 16, 64, 20, 128
PADDED = (640, 800)
SIZES = [(600, 800), (640, 500), (421, 703), (333, 610)]  # odd ones too: of these a stride cannot be inferred
OBJECTS = [
    labelled([[20, 30, 90, 110], [100, 100, 560, 580], [300, 50, 420, 400], [310, 60, 430, 380]], [3, 19, 0, 7]),
    targets([]),
    labelled([[5, 5, 155, 200], [200, 100, 230, 140]], [11, 3]),
    labelled([[60, 40, 250, 250], [400, 10, 410, 330], [300, 200, 340, 230]], [0, 0, 12]),
]
BATCHES = {
    "one image": [0],
    "one image without objects": [1],
    "three images, one without objects": [0, 1, 3],
    "three images, one without proposals": [3, 2, 1],
    "one image without proposals": [2],
}
FULL = ("one image", "one image without objects", "three images, one without objects")


def double_targets(n: int) -> Targets:
    target = OBJECTS[n]
    return Targets(**{**vars(target), "boxes": target.boxes.double()})


def double_proposals(n: int) -> Proposals:
    """Boxes anywhere in the image and boxes around its objects; none for image 2."""
    height, width = SIZES[n]
    boxes = random_proposals(0 if n == 2 else 300, height, width, seed=n).boxes.double()
    if n != 2:
        near = OBJECTS[n].boxes.double().repeat(15, 1)
        sides = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        near = near + 0.1 * sides * torch.randn(near.shape, generator=torch.Generator().manual_seed(n)).double()
        boxes = torch.cat((boxes, near.minimum(near.new_tensor([width, height] * 2)).clamp(min=0)))
    return Proposals(boxes, -torch.arange(len(boxes)).double(), torch.full((len(boxes),), 2))


def maps_of(batch: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(batch))
    return {
        name: torch.randn(
            *(len(batch), CHANNELS, PADDED[0] // stride, PADDED[1] // stride), generator=generator, dtype=torch.float64
        ).requires_grad_()
        for name, stride in STRIDES.items()
    }


@pytest.fixture(scope="module")
def both() -> tuple[TorchvisionRoIHeads, RoIHeads]:
    torch.manual_seed(0)
    pooler = MultiScaleRoIAlign(list(STRIDES), output_size=7, sampling_ratio=2)
    pooler.scales = [1 / stride for stride in STRIDES.values()]
    pooler.map_levels = LevelMapper(2, 5)
    box_head = TwoMLPHead(CHANNELS * 7**2, WIDTH)
    predictor = FastRCNNPredictor(WIDTH, NUM_CLASSES + 1)
    theirs = TorchvisionRoIHeads(pooler, box_head, predictor, 0.5, 0.5, REGIONS, 0.25, None, 0.05, 0.5, 100).double()
    with torch.no_grad():
        boxes = [double_proposals(0).boxes]
        logits, deltas = predictor(box_head(pooler(maps_of([0]), boxes, SIZES[:1])))
        predictor.cls_score.weight *= 2 / (logits - predictor.cls_score.bias).std()
        predictor.bbox_pred.weight *= 0.5 / (deltas - predictor.bbox_pred.bias).std()

    ours = RoIHeads(
        RoIPooler(STRIDES, op="align", sampling_ratio=2, aligned=False),
        TwoFCHead(CHANNELS, WIDTH),
        NUM_CLASSES,
        batch_size_per_image=REGIONS,
        smooth_l1_beta=1 / 9,
        min_size=1e-2,
    ).double()
    ours.box_head.fc1.load_state_dict(box_head.fc6.state_dict())
    ours.box_head.fc2.load_state_dict(box_head.fc7.state_dict())
    for name, value in predictor.cls_score.state_dict().items():
        getattr(ours.predictor.class_logits, name).data = value.roll(-1, dims=0)
    for name, value in predictor.bbox_pred.state_dict().items():
        getattr(ours.predictor.box_deltas, name).data = value[4:]
    return theirs, ours


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@torch.no_grad()
def test_detections_agree(both, batch):
    theirs, ours = both
    maps, proposals = maps_of(batch), [double_proposals(n) for n in batch]
    boxes, sizes = [proposal.boxes for proposal in proposals], [SIZES[n] for n in batch]
    reference, _ = theirs.eval()(maps, boxes, sizes)
    detections = ours.predict(maps, proposals, torch.tensor(sizes))
    for n, found, other in zip(batch, detections, reference, strict=True):
        assert len(found) == len(other["boxes"])
        assert len(found) == 0 if n == 2 else len(found) > 50
        assert torch.equal(found.labels + 1, other["labels"])
        assert torch.allclose(found.scores, other["scores"], rtol=0, atol=1e-9)
        assert torch.allclose(found.boxes, other["boxes"], rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_comparison_is_of_every_level_and_of_spread_scores(both):
    theirs, ours = both
    boxes = torch.cat([double_proposals(n).boxes for n in (0, 1, 3)])
    # Theirs adds 1e-6 octaves before rounding down, ours 1e-5: no box may lie between.
    levels = ours.pooler.levels_of(boxes)
    assert torch.equal(levels - 2, theirs.box_roi_pool.map_levels([boxes]))
    assert (levels.bincount()[2:] > 20).all()
    logits, _ = ours(maps_of([0]), [double_proposals(0).boxes])
    assert 1.5 < logits.std() < 3


@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients_agree_on_the_same_sample(both, monkeypatch, name):
    theirs, ours = both
    batch = BATCHES[name]
    proposals, truth = [double_proposals(n) for n in batch], [double_targets(n) for n in batch]
    seeds = torch.tensor(batch)

    def same_sampler(labels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        padded = pad_sequence([of_image.sign() for of_image in labels], batch_first=True, padding_value=-1)
        return tuple(
            [row[: len(of_image)] for row, of_image in zip(mask, labels, strict=True)]
            for mask in ours.sampler(padded, seeds)
        )

    monkeypatch.setattr(theirs, "fg_bg_sampler", same_sampler)
    their_truth = [{"boxes": target.boxes, "labels": target.labels + 1} for target in truth]
    their_maps, maps = maps_of(batch), maps_of(batch)
    sizes, boxes = [SIZES[n] for n in batch], [proposal.boxes for proposal in proposals]
    _, reference = theirs.train()(their_maps, boxes, sizes, their_truth)
    sample = ours.sample(proposals, truth, seeds)
    losses = ours.losses(maps, proposals, truth, seeds)

    count, fixed_count = len(sample.labels), len(batch) * REGIONS
    assert (count == fixed_count) == (name in FULL)
    positive = int((sample.labels < NUM_CLASSES).sum())
    assert positive == 0 if batch == [1] else positive > 1
    scale = count / fixed_count
    assert losses["loss_cls"].item() == pytest.approx(scale * reference["loss_classifier"].item(), rel=1e-9)
    assert losses["loss_box_reg"].item() == pytest.approx(scale * reference["loss_box_reg"].item(), rel=1e-9)
    sum(losses.values()).backward()
    (scale * sum(reference.values())).backward()
    for level, feature in maps.items():
        assert torch.allclose(feature.grad, their_maps[level].grad, rtol=1e-9, atol=1e-15)
    assert any(feature.grad.any() for feature in maps.values())

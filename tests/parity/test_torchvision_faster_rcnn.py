"""The whole detector against torchvision's, in float64 on the same network input, its weights loaded from a file.

Theirs is built as for its COCO_V1 weights, its BatchNorm statistics are calibrated on real images (on noise
where there are none), its logits spread. All of its 91 logits take part in the softmax; its detections of the ten ids
that are no category are left out of the comparison, since ours have no label for them. So that they cannot push others
out of the best 100, neither model limits the detections. The p6 of these images has torchvision's stride of 53.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from fpn_lightning.models.detector import Detector
from fpn_lightning.models.sampler import Sampler, image_seeds
from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
from fpn_lightning.structures import Batch, ImageBatch, Targets
from fpn_lightning.weights.init_from import load_weights
from tests.models.builders import labelled, whole
from tests.weights.builders import COCO_GAPS, calibrate, noise, pixels_of, torchvision_model, zoo_detector

SIZES = [(128, 160), (160, 112), (150, 190)]
CATEGORY_IDS = torch.tensor([i for i in range(1, 91) if i not in COCO_GAPS])
EVAL_PROPOSALS, REGIONS = 200, 128  # fewer than 1000 and 512, for time
TRUTH = [
    ([[10, 20, 100, 120], [90, 30, 150, 90]], [0, 79]),
    ([], []),
    ([[30, 40, 62, 80], [33, 44, 70, 90], [100, 50, 180, 140]], [11, 12, 70]),
]


def image_batch(images: list[torch.Tensor]) -> ImageBatch:
    height, width = (-(-max(image.shape[side] for image in images) // 32) * 32 for side in (1, 2))
    pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    sizes = torch.tensor([image.shape[1:] for image in images])
    return ImageBatch(pixels, sizes, torch.arange(len(images)), whole(sizes.tolist()))


@pytest.fixture(scope="module")
def images(request) -> list[torch.Tensor]:
    try:
        folder = request.getfixturevalue("coco_mini")
    except pytest.skip.Exception:
        return noise(SIZES)
    return pixels_of(folder / "val2017", SIZES)


@pytest.fixture(scope="module")
def both(images, tmp_path_factory) -> tuple[FasterRCNN, Detector]:
    theirs = torchvision_model()
    ours = zoo_detector("torchvision_r50_fpn", eval_proposals=EVAL_PROPOSALS).eval()
    batch = image_batch(images)
    calibrate(theirs, ours.backbone.normalize(batch), SIZES)
    path = tmp_path_factory.mktemp("weights") / "fasterrcnn.pth"
    torch.save(theirs.state_dict(), path)
    checkpoint = load_weights(ours, f"torchvision:{path}")
    path.unlink()
    assert checkpoint["categories"]["ids"] == CATEGORY_IDS.tolist()
    theirs.roi_heads.detections_per_img = ours.roi_heads.detections_per_image = 10_000
    ours.roi_heads.sampler = Sampler(REGIONS, 0.25)
    return theirs.double(), ours.double()


@pytest.mark.parametrize("rows", [[0], [2], [0, 1, 2]], ids=["one image", "one with padding", "three images"])
@torch.no_grad()
def test_proposals_and_detections_agree(both, images, rows):
    theirs, ours = both
    batch = image_batch([images[n] for n in rows])
    sizes = [SIZES[n] for n in rows]
    pixels = ours.backbone.normalize(batch)
    maps = theirs.eval().backbone(pixels)
    boxes, _ = theirs.rpn(ImageList(pixels, sizes), maps)
    reference, _ = theirs.roi_heads(maps, [of_image[:EVAL_PROPOSALS] for of_image in boxes], sizes)
    proposals, detections = ours.propose_and_detect(batch)
    for own, other in zip(proposals, boxes, strict=True):
        assert len(other) > 300
        assert (own.boxes[: len(other)] - other).abs().max() < 1e-6  # theirs are 1000 at most
        assert len(own) == len(other) or len(other) == 1000
    for own, other in zip(detections, reference, strict=True):
        known = torch.isin(other["labels"], CATEGORY_IDS)
        assert 0 < (~known).sum() < known.sum()
        assert len(own) == known.sum() > 100
        assert torch.equal(CATEGORY_IDS[own.labels], other["labels"][known])
        assert (own.scores - other["scores"][known]).abs().max() < 1e-9
        assert (own.boxes - other["boxes"][known]).abs().max() < 1e-6
        assert own.scores.std() > 0.02  # spread, not saturated


@torch.no_grad()
def test_losses_agree_on_the_same_samples(both, images, monkeypatch):
    theirs, ours = both
    batch = image_batch(images)
    truth = [labelled(boxes, labels) for boxes, labels in TRUTH]
    truth = [Targets(**{**vars(target), "boxes": target.boxes.double()}) for target in truth]
    seeds = image_seeds(0, 0, batch.image_ids)

    def same_anchors(labels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        positive, negative = ours.rpn.sampler(torch.stack(labels), seeds)
        return list(positive), list(negative)

    def same_regions(labels: list[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
        padded = pad_sequence([of_image.sign() for of_image in labels], batch_first=True, padding_value=-1)
        return tuple(
            [row[: len(of_image)] for row, of_image in zip(mask, labels, strict=True)]
            for mask in ours.roi_heads.sampler(padded, seeds)
        )

    monkeypatch.setattr(theirs.rpn, "fg_bg_sampler", same_anchors)
    monkeypatch.setattr(theirs.roi_heads, "fg_bg_sampler", same_regions)
    # In training theirs takes 2000 of a level before NMS, ours 1000 as in testing.
    monkeypatch.setitem(theirs.rpn._pre_nms_top_n, "training", 1000)
    pixels = ours.backbone.normalize(batch)
    maps = theirs.backbone(pixels)
    their_truth = [{"boxes": target.boxes, "labels": CATEGORY_IDS[target.labels.long()]} for target in truth]
    boxes, rpn_losses = theirs.rpn.train()(ImageList(pixels, SIZES), maps, their_truth)
    _, roi_losses = theirs.roi_heads.train()(maps, boxes, SIZES, their_truth)
    losses = FasterRCNNStage(ours).losses(Batch(batch, truth))
    # torchvision makes its RPN labels float32, and that loss comes out with that precision.
    assert losses["loss_rpn_cls"].item() == pytest.approx(rpn_losses["loss_objectness"].item(), rel=1e-7)
    assert losses["loss_rpn_loc"].item() == pytest.approx(rpn_losses["loss_rpn_box_reg"].item(), rel=1e-9)
    assert losses["loss_cls"].item() == pytest.approx(roi_losses["loss_classifier"].item(), rel=1e-9)
    assert losses["loss_box_reg"].item() == pytest.approx(roi_losses["loss_box_reg"].item(), rel=1e-9)
    assert all(loss > 0 for loss in losses.values())

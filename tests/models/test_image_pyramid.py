"""The featurised image pyramid: resizing, mapping boxes back, merging the proposals of all scales."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Anchors, Detector, Scale
from fpn_lightning.models.image_pyramid import (
    boxes_between_scales,
    check_scales,
    merge_proposals,
    propose_on_scales,
    scale_images,
)
from fpn_lightning.models.pyramids import FPN, SingleMap
from fpn_lightning.structures import ImageBatch, Proposals
from tests.models.builders import image_batch


def proposals(boxes, objectness, level=4):
    return Proposals(torch.tensor(boxes), torch.tensor(objectness), torch.full((len(boxes),), level))


C4 = partial(SingleMap, level=4)


def stage(scales=(1.0,), pyramid=C4):
    torch.manual_seed(0)
    octaves = [[i] for i in range(5)] if pyramid is FPN else [[0, 1, 2, 3, 4]]
    made = Detector(
        NarrowResNet(width=8),
        pyramid,
        roi_heads=None,
        anchors=Anchors(octaves),
        scale=Scale(base_anchor_size=8),
        image_scales=scales,
    )
    for head in made.rpn.heads:  # logits and boxes that differ from cell to cell
        torch.nn.init.normal_(head.objectness_logits.weight, std=0.3)
        torch.nn.init.normal_(head.anchor_deltas.weight, std=0.1)
    return made.eval()


def test_twice_the_size_by_hand():
    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    pixels[0, :, :2, :2] = torch.tensor([[0, 100], [0, 100]], dtype=torch.uint8)
    images = replace(image_batch([(2, 2)]), pixels=pixels)
    scaled = scale_images(images, 2)
    assert scaled.sizes.tolist() == [[4, 4]]
    assert scaled.geometries == [Geometry((2, 2), (4, 4))]
    assert scaled.pixels.shape == (1, 3, 8, 8)
    # Pixel centres at 1/4, 3/4, 5/4, 7/4 of a row whose centres 1/2 and 3/2 hold 0 and 100; its ends are held.
    assert scaled.pixels[0, 0, :4, :4].tolist() == [[0, 25, 75, 100]] * 4
    scaled.pixels[0, :, :4, :4] = 0
    assert not scaled.pixels.any()  # the image is not mixed with its padding, which stays 0


def test_sizes_are_rounded_and_padding_stays_black():
    images = image_batch([(33, 50), (64, 21)])
    images.pixels[0, :, :33, :50] = 255
    scaled = scale_images(images, 0.5)
    assert scaled.sizes.tolist() == [[16, 25], [32, 10]]
    assert scaled.pixels.shape == (2, 3, 32, 32)
    assert (scaled.pixels[0, :, :16, :25] == 255).all()  # also at the border
    assert not scaled.pixels[0, :, 16:].any()
    assert not scaled.pixels[0, :, :, 25:].any()
    assert scaled.image_ids is images.image_ids
    assert scale_images(image_batch([(1, 40)]), 0.25).sizes.tolist() == [[1, 10]]


def test_padding_is_zero_after_normalisation_on_every_scale():
    images = image_batch([(40, 60), (64, 64)])
    for scale in (0.5, 1.5):
        scaled = scale_images(images, scale)
        height, width = scaled.sizes[0].tolist()
        normalised = NarrowResNet(width=8).normalize(scaled)
        assert not normalised[0, :, height:].any()
        assert not normalised[0, :, :, width:].any()
        assert normalised[0, :, :height, :width].abs().min() > 0


def test_boxes_at_twice_the_size_by_hand():
    boxes = torch.tensor([[20.0, 10, 60, 80]])
    assert boxes_between_scales(boxes, torch.tensor([200, 100]), torch.tensor([100, 50])).tolist() == [[10, 5, 30, 40]]
    # 33 px at half the size are 16 px, so the factor is 33 / 16 down and 50 / 25 across.
    back = boxes_between_scales(torch.tensor([[0.0, 0, 25, 16]]), torch.tensor([16, 25]), torch.tensor([33, 50]))
    assert back.tolist() == [[0, 0, 50, 33]]


def test_merging_by_hand():
    half = proposals([[0.0, 0, 40, 40], [60, 60, 90, 90]], [3.0, 0.5], level=5)
    full = proposals([[0.0, 0, 40, 39], [50, 0, 60, 10], [95, 95, 120, 99]], [4.0, 1.0, -1.0])
    merged = merge_proposals([half, full], (100, 100), nms_thresh=0.7, post_nms_topk=3)
    # The half-size image's first box has IoU 39 / 40 with the better one of the full size; the last of four is cut off.
    assert merged.boxes.tolist() == [[0, 0, 40, 39], [50, 0, 60, 10], [60, 60, 90, 90]]
    assert merged.objectness.tolist() == [4.0, 1.0, 0.5]
    assert merged.levels.tolist() == [4, 4, 5]
    every = merge_proposals([half, full], (100, 100), nms_thresh=0.7, post_nms_topk=10)
    assert every.boxes[-1].tolist() == [95, 95, 100, 99]  # clipped
    assert len(merge_proposals([half, full], (100, 100), nms_thresh=0.98, post_nms_topk=10)) == 5


def test_proposals_of_every_scale_arrive_in_the_pixels_of_the_input():
    images = image_batch([(40, 80), (64, 64)])

    def whole_image(batch: ImageBatch) -> list[Proposals]:
        # objectness tells the scale; the box is the right half of the image
        return [proposals([[w / 2, 0.0, w, h]], [h / 10]) for h, w in batch.sizes.tolist()]

    found = propose_on_scales(whole_image, images, (0.5, 1, 2), nms_thresh=1.1, post_nms_topk=10)
    assert found[0].boxes.tolist() == [[40, 0, 80, 40]] * 3
    assert found[1].boxes.tolist() == [[32, 0, 64, 64]] * 3
    assert found[0].objectness.tolist() == [8, 4, 2]  # best first: twice, once and half the size
    assert found[0].levels.tolist() == [3, 4, 5]
    assert len(propose_on_scales(whole_image, images, (0.5, 1, 2), nms_thresh=0.7, post_nms_topk=10)[1]) == 1


@pytest.mark.parametrize("pyramid", [FPN, partial(SingleMap, level=4)], ids=["fpn", "single"])
def test_scale_one_is_the_rpn_bit_for_bit(pyramid):
    model, images = stage(pyramid=pyramid), image_batch([(64, 96), (50, 70)])
    plain = model.rpn.predict(model.rpn(model(images)), images.sizes)
    for ours, theirs in zip(model.propose(images), plain, strict=True):
        assert len(ours) > 50
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.objectness, theirs.objectness)
        assert torch.equal(ours.levels, theirs.levels)


def test_scale_one_merged_with_nothing_changes_nothing_on_a_single_map():
    # Scale 1 alone skips the resizing and the second NMS, which would change nothing.
    model, images = stage(), image_batch([(64, 96), (50, 70)])
    scaled = scale_images(images, 1.0)
    assert torch.equal(scaled.pixels, images.pixels)
    for found, (height, width) in zip(model.propose(images), images.sizes.tolist(), strict=True):
        assert torch.equal(merge_proposals([found], (height, width), 0.7, 2000).boxes, found.boxes)


def test_a_batch_of_two_sizes_is_two_batches_of_one():
    model, images = stage(scales=(0.5, 1.0, 2.0)), image_batch([(64, 96), (41, 70)])
    together = model.propose(images)
    for index, ours in enumerate(together):
        (alone,) = model.propose(images.only(index))
        assert len(ours) == len(alone) > 50
        assert torch.allclose(ours.boxes, alone.boxes, atol=1e-4)
        assert torch.allclose(ours.objectness, alone.objectness, atol=1e-5)
    height, width = images.sizes[1].tolist()
    assert (together[1].boxes[:, 2] <= width).all()
    assert (together[1].boxes[:, 3] <= height).all()
    assert set(together[0].levels.tolist()) == {3, 4, 5}


@pytest.mark.parametrize("scales", [[], [0.0], [-1.0], [float("nan")], [1.0, 1.0]])
def test_invalid_scales_are_named(scales):
    with pytest.raises(InputError, match=r"model\.detector\.image_scales"):
        check_scales(scales)

"""Predictions and ground truth are drawn at their pixels, in the colour of their level or category."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from fpn_lightning.drawing.image import (
    COLOURS,
    FILL,
    LABEL,
    LINE,
    DrawnImage,
    Prediction,
    draw_boxes,
    draw_ground_truth,
    draw_image,
    drawing_scale,
    level_colour,
    resize,
)
from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import RLE
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.structures import DetectionsOrig
from tests.drawing.builders import coloured_pixels, objects_orig, proposals_orig

GREY = 90


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def drawn(prediction: Prediction, top_k: int = 30, levels=(), names=(), truth=None) -> tuple[DrawnImage, np.ndarray]:
    """A prediction drawn on a grey image of 20 x 40 px, 12 times as large, and the pixels of the picture."""
    result = draw_image(grey(20, 40), prediction, top_k, levels, names, truth)
    assert result.pixels.shape == (3, 240, 480)
    return result, result.pixels.permute(1, 2, 0).numpy()


def rectangle(top: int, left: int, height: int, width: int) -> RLE:
    bitmap = np.zeros((20, 40), dtype=np.uint8, order="F")
    bitmap[top : top + height, left : left + width] = 1
    return {"size": [20, 40], "counts": mask_api.encode(bitmap)["counts"].decode()}


def segment_proposals(masks: list[RLE], levels: list[int]) -> MaskProposalsOrig:
    return MaskProposalsOrig(1, masks, torch.zeros(len(masks)), torch.tensor(levels))


@pytest.mark.parametrize(
    ("size", "scale"),
    [((20, 40), 12), ((160, 160), 3), ((480, 300), 1), ((479, 300), 2), ((640, 960), 1), ((1920, 800), 0.5)],
)
def test_small_images_grow_by_whole_numbers_and_large_ones_shrink(size, scale):
    assert drawing_scale(size) == scale
    height, width = resize(grey(*size), scale).shape[:2]
    assert (height, width) == (size[0] * scale, size[1] * scale)
    assert 480 <= max(height, width) <= 960
    small = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(resize(small, 4), small.repeat(4, axis=0).repeat(4, axis=1))  # pixels stay squares


def test_a_box_is_drawn_at_its_pixels_of_an_image_that_is_not_square():
    # 20 x 40 px, drawn 12 times as large: columns 10..29 are 120..359, rows 5..14 are 60..179.
    _, picture = drawn(proposals_orig([[10, 5, 30, 15]], [3]))
    assert coloured_pixels(picture, level_colour(3)) == (120, 60, 359, 179)
    assert (picture[60 + LINE : 180 - LINE, 120 + LINE : 360 - LINE] == GREY).all()


@pytest.mark.parametrize(("flipped", "columns"), [(False, (48, 143)), (True, (336, 431))])
def test_a_box_of_a_resized_network_input_is_drawn_at_its_place_in_the_file(flipped, columns):
    # Input 40 x 80 of a file of 20 x 40: columns 8..23 are the file's 4..11, or 28..35 if the input was flipped.
    boxes = Geometry((20, 40), (40, 80), flipped).to_image(np.array([[8.0, 4, 24, 12]]))
    _, picture = drawn(proposals_orig(boxes.tolist(), [2]))
    assert coloured_pixels(picture, level_colour(2)) == (columns[0], 24, columns[1], 71)


def test_each_of_seven_levels_has_its_own_colour_and_the_best_box_is_on_top():
    boxes = [[0, 0, 40, 20]] + [[2 * i, i, 2 * i + 10, i + 8] for i in range(1, 7)]
    _, picture = drawn(proposals_orig(boxes, list(range(2, 9))))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} - {(GREY,) * 3}
    assert colours == set(COLOURS) == {level_colour(level) for level in range(2, 9)}
    _, picture = drawn(proposals_orig([[5, 5, 9, 9], [5, 5, 9, 9]], [4, 6]))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert colours == {(GREY,) * 3, level_colour(4)}


def test_only_the_best_proposals_are_drawn_and_counted():
    result, picture = drawn(proposals_orig([[1, 1, 5, 5], [10, 10, 15, 15], [20, 2, 30, 9]], [2, 2, 4]), 2, (2, 3))
    assert result.heading == "top 2 proposals by level"
    assert [text for text, _ in result.legend] == ["p2: 2", "p3: 0"]
    assert not (picture == np.asarray(level_colour(4))).all(axis=2).any()


def test_detections_carry_category_and_score():
    boxes = torch.tensor([[4, 4, 20, 10], [1, 1, 5, 5], [0, 0, 9, 9]], dtype=torch.float64)
    detections = DetectionsOrig(7, boxes, scores=torch.tensor([0.93, 0.41, 0.1]), labels=torch.tensor([1, 5, 0]))
    result, picture = drawn(detections, 2, (2, 3), ("cat", "dog"))  # a label without a name does not fail
    assert result.heading == "top 2 detections"
    assert result.legend == []
    left, top, right, bottom = coloured_pixels(picture, COLOURS[1])
    assert (left, right, bottom) == (48, 239, 119)
    assert 48 - LABEL <= top < 48
    label = picture[48 - LABEL : 48, 48:80]  # "dog 0.93", black on the colour of the box
    assert (label == np.asarray(COLOURS[1])).all(axis=2).mean() > 0.5
    assert label.sum(axis=2).min() < 100
    assert (picture[60 + LINE : 120 - LINE, 60:230] == GREY).all()  # the label hides nothing of the object


def test_masks_are_filled_and_outlined_and_the_first_is_visible():
    first, second = level_colour(4), level_colour(2)
    masks = [rectangle(5, 10, 6, 8), rectangle(0, 0, 20, 30), rectangle(0, 0, 0, 0)]
    result, picture = drawn(segment_proposals(masks, [4, 2, 2]), levels=(3,))
    assert result.heading == "top 3 segment proposals by level"
    assert [text for text, _ in result.legend] == ["p2: 2", "p3: 0", "p4: 1"]
    filled = [[int((1 - FILL) * GREY + FILL * value) for value in colour] for colour in (first, second)]
    inside = picture[60 + 1 : 132 - 1, 120 + 1 : 216 - 1]  # rows 5..10 and columns 10..17
    assert np.unique(inside.reshape(-1, 3), axis=0).tolist() == [filled[0]]
    assert picture[24, 60].tolist() == filled[1]
    assert picture[60, 150].tolist() == picture[131, 215].tolist() == list(first)
    assert picture[24, 359].tolist() == list(second)  # the right edge
    assert (picture[:, 360:] == GREY).all()


@pytest.mark.parametrize("prediction", [proposals_orig([], []), segment_proposals([], [])])
@pytest.mark.filterwarnings("error")
def test_an_image_without_predictions_and_objects_stays_as_it_is(prediction):
    result, picture = drawn(prediction, truth=objects_orig([]))
    assert result.heading.startswith("top 0 ")
    assert (picture == GREY).all()


@pytest.mark.parametrize("box", [[-50, -50, 400, 300], [-9, 4, -3, 8], [50, 30, 60, 40], [39.9, 19.9, 40, 20]])
def test_a_box_that_reaches_outside_ends_at_the_border(box):
    pixels, boxes = torch.zeros((3, 20, 40), dtype=torch.uint8), torch.tensor([box], dtype=torch.float64)
    assert draw_boxes(pixels, boxes, [(255, 0, 0)], ["x"])[0].any()
    assert draw_ground_truth(pixels, boxes).shape == pixels.shape
    assert draw_boxes(pixels, torch.tensor([[-50, -50, 400, 300]]), [(255, 0, 0)], line=1)[0, -1].all()


def test_ground_truth_is_one_pixel_of_dashes_on_top_of_predictions():
    box = [[4.0, 6, 24, 16]]
    _, picture = drawn(proposals_orig(box, [2]), truth=objects_orig(box))
    top = picture[72, 48:288]  # columns 4..23 and row 6
    assert np.unique(top).tolist() == [0, 255]
    changes = np.flatnonzero(np.diff(top[:, 0].astype(int)))
    assert (np.diff(changes) == 4).all()
    assert (picture[73, 49:287] == np.asarray(level_colour(2))).all()  # the prediction is visible beside it
    _, picture = drawn(proposals_orig([], []), truth=objects_orig(box))
    assert (picture != GREY).any(axis=2).sum() == 2 * 240 + 2 * 118


@pytest.mark.parametrize(("box", "top"), [([4.0, 6, 24, 10], 120), ([4.0, 6, 24, 20], 240 - LABEL)])
def test_objects_beside_detections_have_their_category_below_them(box, top):
    nothing = DetectionsOrig(1, torch.zeros((0, 4)), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    _, picture = drawn(nothing, names=("cat", "dog"), truth=objects_orig([box], [1]))
    label = picture[top : top + LABEL, 50:70]  # black on white
    assert (label == 255).all(axis=2).mean() > 0.3
    assert label.min() < 80
    _, unnamed = drawn(proposals_orig([], []), names=("cat", "dog"), truth=objects_orig([box], [1]))
    assert (unnamed[120:, 50:70] == 255).all(axis=2).mean() < 0.1

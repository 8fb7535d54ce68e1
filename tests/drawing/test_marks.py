"""Detections and masks: names, scores, colours."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as mask_api

from fpn_lightning.drawing.boxes import cycled_colour, level_colour
from fpn_lightning.drawing.marks import marks_of
from fpn_lightning.drawing.sheet import draw_marks
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.structures import DetectionsOrig
from tests.drawing.builders import coloured_pixels


def test_detections_carry_category_and_score():
    found = DetectionsOrig(
        image_id=7,
        boxes_orig=torch.tensor([[4, 4, 20, 10], [1, 1, 5, 5], [0, 0, 9, 9]], dtype=torch.float64),
        scores=torch.tensor([0.93, 0.414, 0.1]),
        labels=torch.tensor([1, 5, 0]),
    )
    marks = marks_of(found, 2, (2, 3), ("cat", "dog"))
    assert marks.names == ["dog 0.93", "class 5 0.41"]  # a checkpoint of another project may not name its classes
    assert marks.colours == [cycled_colour(1), cycled_colour(5)]
    assert marks.legend == []
    picture = np.asarray(draw_marks(np.zeros((20, 40, 3), np.uint8), marks))
    left, _, right, bottom = coloured_pixels(picture, cycled_colour(1))
    assert (left, right, bottom) == (48, 239, 119)


def test_masks_take_the_colour_of_their_level():
    mask = np.zeros((20, 40), np.uint8, order="F")
    mask[5:15, 10:30] = 1
    rle = mask_api.encode(mask)
    found = MaskProposalsOrig(
        1, [{"size": [20, 40], "counts": rle["counts"].decode()}], torch.zeros(1), torch.tensor([4])
    )
    marks = marks_of(found, 30, (2,), ())
    assert [text for text, _ in marks.legend] == ["p2: 0", "p4: 1"]
    picture = np.asarray(draw_marks(np.zeros((20, 40, 3), np.uint8), marks))
    assert coloured_pixels(picture, level_colour(4)) == (120, 60, 359, 179)
    assert picture[100, 200].any()  # filled, more darkly
    assert not picture[30, 30].any()

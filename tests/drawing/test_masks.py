from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_api

from fpn_lightning.drawing.boxes import drawing_scale, level_colour
from fpn_lightning.drawing.masks import FILL, draw_masks


def rectangle(top, left, height, width):
    bitmap = np.zeros((20, 30), dtype=np.uint8, order="F")
    bitmap[top : top + height, left : left + width] = 1
    return {"size": [20, 30], "counts": mask_api.encode(bitmap)["counts"].decode()}


def test_masks_are_filled_and_outlined_where_they_are():
    pixels = np.full((20, 30, 3), 100, dtype=np.uint8)
    first, second = level_colour(2), level_colour(4)
    masks = [rectangle(5, 10, 6, 8), rectangle(0, 0, 20, 30), rectangle(0, 0, 0, 0)]
    picture = np.asarray(draw_masks(pixels, masks, [first, second, second]))
    scale = int(drawing_scale((20, 30)))
    assert picture.shape == (20 * scale, 30 * scale, 3)
    filled = [tuple(round((1 - FILL) * 100 + FILL * value) for value in colour) for colour in (first, second)]
    # the first lies on top of the second, which covers the whole image
    inside = picture[5 * scale + 1 : 11 * scale - 1, 10 * scale + 1 : 18 * scale - 1]
    assert {tuple(value) for value in inside.reshape(-1, 3).tolist()} == {filled[0]}
    assert tuple(picture[2 * scale, 5 * scale].tolist()) == filled[1]
    assert tuple(picture[5 * scale, 14 * scale].tolist()) == first
    assert tuple(picture[0, 0].tolist()) == second


def test_large_images_are_drawn_smaller_and_stay_as_they_were():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    picture = draw_masks(pixels, [rectangle(0, 15, 20, 15)], [level_colour(3)], longest=15)
    assert picture.size == (15, 10)
    found = np.asarray(picture)
    assert found[:, :7].max() == 0
    assert found[:, 8:].max(axis=2).min() > 0
    assert pixels.max() == 0

"""The whole picture: parts do not touch each other, colours survive the palette, odd sizes work."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fpn_lightning.drawing.boxes import LEVEL_COLOURS
from fpn_lightning.drawing.feature_maps import FeatureMap
from fpn_lightning.drawing.marks import marks_of
from fpn_lightning.drawing.sheet import draw_sheet, png
from tests.drawing.builders import proposals_orig


def maps(height: int, width: int, levels: range) -> list[FeatureMap]:
    generator = np.random.default_rng(0)
    sizes = {level: (-(-height // 2**level), -(-width // 2**level)) for level in levels}
    return [
        FeatureMap(f"p{level}", 2**level, generator.random(size, np.float32), (height, width))
        for level, size in sizes.items()
    ]


def sheet(height: int, width: int, boxes=(), levels=(), shown: range = range(2, 7), **more) -> np.ndarray:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    marks = marks_of(proposals_orig(boxes, levels), 30, (), ())
    return np.asarray(draw_sheet("title", pixels, marks, maps(height, width, shown), **more))


def test_boxes_are_drawn_inside_the_image_only():
    # 100 x 160 px, three times as large, below a title and a heading.
    boxes = [[-20, -20, 400, 400], [0, 0, 160, 100]]
    legend = 19  # px at the bottom: it counts the boxes
    plain, drawn = sheet(100, 160), sheet(100, 160, boxes, [2, 2])
    assert plain.shape == drawn.shape
    rows, columns = np.nonzero((plain != drawn).any(axis=2)[:-legend])
    heading = rows < 8 + 15 + 8 + 15
    assert (rows[~heading].min(), rows.max()) == (46, 46 + 300 - 1)
    assert (columns.min(), columns.max()) == (8, 8 + 480 - 1)


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 2), (64, 64)])
@pytest.mark.parametrize("shown", [range(2, 7), range(4, 5), range(0)])
def test_images_and_maps_of_any_shape(size, shown):
    picture = sheet(*size, [[0, 0, 1, 1]], [2], shown, ground_truth_orig=np.asarray([[0.0, 0, 1, 1]]))
    assert picture.shape[2] == 3


def test_the_palette_keeps_the_colours_that_mean_something():
    # Noise has more colours than a palette: a line of few pixels would get the colour of something else.
    boxes = [[10 * i, 10, 10 * i + 8, 18] for i in range(7)]
    picture = sheet(100, 160, boxes, range(2, 9))
    content = png(Image.fromarray(picture))
    assert content == png(Image.fromarray(picture))
    with Image.open(io.BytesIO(content)) as read:
        assert read.mode == "P"
        stored = np.asarray(read.convert("RGB"))
    for colour in (*LEVEL_COLOURS, (255, 255, 255), (0, 0, 0)):
        meant = (picture == np.asarray(colour)).all(axis=2)
        assert meant.any()
        assert (stored[meant] == np.asarray(colour)).all()
    assert np.abs(stored.astype(int) - picture).mean() < 30

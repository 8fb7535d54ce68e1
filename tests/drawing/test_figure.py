"""The whole picture: parts do not touch each other, the palette keeps the colours, images of any shape work."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fpn_lightning.drawing.feature_maps import FeatureMap
from fpn_lightning.drawing.figure import draw_figure, png
from fpn_lightning.drawing.image import COLOURS, draw_image
from tests.drawing.builders import objects_orig, proposals_orig


def maps(height: int, width: int, levels: range) -> list[FeatureMap]:
    generator = np.random.default_rng(0)
    sizes = {level: (-(-height // 2**level), -(-width // 2**level)) for level in levels}
    return [
        FeatureMap(f"p{level}", 2**level, generator.random(size, np.float32), (height, width))
        for level, size in sizes.items()
    ]


def figure(height: int, width: int, boxes=(), levels=(), shown: range = range(2, 7), truth=None) -> Image.Image:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    drawn = draw_image(image, proposals_orig(boxes, levels), 30, shown, (), truth)
    return draw_figure("title", drawn, maps(height, width, shown), truth is not None)


def test_boxes_are_drawn_inside_the_image_only():
    # 100 x 160 px, three times as large, below a title and a heading.
    boxes = [[-20, -20, 400, 400], [0, 0, 160, 100]]
    legend = 8 + 15  # px at the bottom; the legend counts the boxes
    plain, drawn = np.asarray(figure(100, 160)), np.asarray(figure(100, 160, boxes, [2, 2]))
    assert plain.shape == drawn.shape
    rows, columns = np.nonzero((plain != drawn).any(axis=2)[:-legend])
    heading = rows < 8 + 15 + 8 + 15
    assert (rows[~heading].min(), rows.max()) == (46, 46 + 300 - 1)
    assert (columns.min(), columns.max()) == (8, 8 + 480 - 1)


def test_ground_truth_is_explained_in_the_legend():
    without, with_truth = figure(64, 64), figure(64, 64, truth=objects_orig([]))
    legend = [np.asarray(picture)[-23:-8, 8:] for picture in (without, with_truth)]
    assert legend[0].shape == legend[1].shape
    assert (legend[0] != legend[1]).any()


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 2), (64, 64)])
@pytest.mark.parametrize("shown", [range(2, 7), range(4, 5), range(0)])
def test_images_and_maps_of_any_shape(size, shown):
    picture = figure(*size, [[0, 0, 1, 1]], [2], shown, objects_orig([[0.0, 0, 1, 1]]))
    assert picture.width >= size[1]
    assert picture.height >= size[0]


def test_the_palette_keeps_the_colours_of_thin_lines():
    # Random pixels have more colours than a palette.
    boxes = [[20 * i, 10, 20 * i + 18, 28] for i in range(7)]
    picture = figure(100, 160, boxes, range(2, 9))
    content = png(picture)
    assert content == png(picture)
    with Image.open(io.BytesIO(content)) as read:
        assert read.mode == "P"
        stored = np.asarray(read.convert("RGB")).astype(int)
    original = np.asarray(picture)
    for colour in (*COLOURS, (255, 255, 255), (0, 0, 0)):
        drawn = (original == np.asarray(colour)).all(axis=2)
        assert drawn.any()
        assert np.abs(stored[drawn] - np.asarray(colour)).max() < 40
    assert np.abs(stored - original).mean() < 30

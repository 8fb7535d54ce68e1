"""Boxes land on the pixels they name, in the colour of their level."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fpn_lightning.drawing.boxes import (
    LEVEL_COLOURS,
    LINE,
    STRIP,
    draw_boxes,
    draw_ground_truth,
    draw_names,
    drawing_scale,
    enlarge,
    level_colour,
)
from fpn_lightning.drawing.marks import marks_of
from fpn_lightning.drawing.sheet import draw_marks
from fpn_lightning.geometry import Geometry
from tests.drawing.builders import coloured_pixels, proposals_orig

GREY = 90


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "scale"),
    [((20, 40), 12), ((160, 160), 3), ((480, 300), 1), ((479, 300), 2), ((640, 960), 1), ((1920, 800), 0.5)],
)
def test_small_images_grow_by_whole_numbers_and_large_ones_shrink(size, scale):
    assert drawing_scale(size) == scale
    height, width = enlarge(grey(*size), scale).shape[:2]
    assert (height, width) == (size[0] * scale, size[1] * scale)
    assert 480 <= max(height, width) <= 960


def test_enlarged_pixels_stay_squares():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(enlarge(pixels, 4), pixels.repeat(4, axis=0).repeat(4, axis=1))


def test_a_box_is_drawn_at_its_pixels_of_an_image_that_is_not_square():
    # 20 x 40 px, drawn 12 times as large: columns 10..29 are 120..359, rows 5..14 are 60..179.
    marks = marks_of(proposals_orig([[10, 5, 30, 15]], [3]), 30, (3,), ())
    picture = np.asarray(draw_marks(grey(20, 40), marks))
    assert picture.shape == (240, 480, 3)
    assert coloured_pixels(picture, level_colour(3)) == (120, 60, 359, 179)
    inside = picture[60 + LINE : 180 - LINE, 120 + LINE : 360 - LINE]
    assert (inside == GREY).all()


@pytest.mark.parametrize(("flipped", "columns"), [(False, (48, 143)), (True, (336, 431))])
def test_a_box_of_a_resized_network_input_is_drawn_where_the_file_has_it(flipped, columns):
    # Input 40 x 80 of a file of 20 x 40: columns 8..23 are the file's 4..11, or 28..35 where the input was mirrored.
    boxes = Geometry((20, 40), (40, 80), flipped).to_image(np.array([[8.0, 4, 24, 12]]))
    picture = np.asarray(draw_marks(grey(20, 40), marks_of(proposals_orig(boxes.tolist(), [2]), 30, (2,), ())))
    assert coloured_pixels(picture, level_colour(2)) == (columns[0], 24, columns[1], 71)


def test_every_level_has_a_colour_of_its_own_and_the_best_box_lies_on_top():
    levels = list(range(2, 9))
    assert {level_colour(level) for level in levels} == set(LEVEL_COLOURS)
    boxes = [[0, 0, 40, 20]] + [[2 * i, i, 2 * i + 10, i + 8] for i in range(1, 7)]
    marks = marks_of(proposals_orig(boxes, levels), 30, (), ())
    assert marks.colours == [level_colour(level) for level in levels]
    picture = np.asarray(draw_marks(grey(20, 40), marks))
    drawn = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} - {(GREY, GREY, GREY)}
    assert drawn == set(LEVEL_COLOURS)
    same_place = marks_of(proposals_orig([[5, 5, 9, 9], [5, 5, 9, 9]], [4, 6]), 30, (), ())
    drawn = {tuple(colour) for colour in np.asarray(draw_marks(grey(20, 40), same_place)).reshape(-1, 3).tolist()}
    assert drawn == {(GREY, GREY, GREY), level_colour(4)}


def test_only_the_best_are_drawn_and_counted():
    found = proposals_orig([[1, 1, 5, 5], [10, 10, 15, 15], [20, 2, 30, 9]], [2, 2, 4])
    marks = marks_of(found, 2, (2, 3), ())
    assert len(marks.boxes_orig) == 2
    assert marks.heading == "top 2 proposals by level"
    assert [text for text, _ in marks.legend] == ["p2: 2", "p3: 0"]


@pytest.mark.parametrize("box", [[-50, -50, 400, 300], [-9, 4, -3, 8], [50, 30, 60, 40], [39.9, 19.9, 40, 20]])
def test_what_reaches_outside_ends_at_the_border(box):
    picture = Image.new("RGB", (40, 20))
    boxes = np.asarray([box], dtype=np.float64)
    draw_boxes(picture, boxes, [(255, 0, 0)])
    draw_ground_truth(picture, boxes)
    draw_names(picture, boxes, ["x"], [(0, 255, 0)])
    assert picture.size == (40, 20)
    assert np.asarray(picture).any()


def test_ground_truth_is_one_pixel_of_dashes():
    picture = Image.new("RGB", (40, 30), (GREY,) * 3)
    draw_ground_truth(picture, np.asarray([[4.0, 6, 24, 16]]))
    pixels = np.asarray(picture)
    assert pixels[6, 4:24, 0].tolist() == ([255] * 4 + [0] * 4) * 2 + [255] * 4
    touched = (pixels != GREY).any(axis=2)
    assert touched.sum() == 2 * 20 + 2 * 8
    assert not touched[7:15, 5:23].any()


def test_a_name_stands_above_its_box_or_inside_where_there_is_no_room():
    colour = (0, 158, 115)
    for top, first in ((40.0, 40 - STRIP), (5.0, 5)):
        picture = Image.new("RGB", (200, 100))
        draw_names(picture, np.asarray([[150.0, top, 199, 90]]), ["hot dog 0.90"], [colour])
        left, upper, right, lower = coloured_pixels(np.asarray(picture), colour)
        assert (upper, lower) == (first, first + STRIP - 1)
        assert left < 150  # moved so that all of it is seen
        assert right == 199

"""Coordinates between the image file and the network input, both ways."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fpn_lightning.geometry import Geometry

SIDE = st.integers(1, 700)
SIZE = st.tuples(SIDE, SIDE)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    (height, width), size = draw(SIZE), draw(SIZE)
    window = None
    if draw(st.booleans()):
        left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        window = (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))
    return Geometry((height, width), size, draw(st.booleans()), window)


def test_to_the_network_by_hand():
    boxes = np.array([[10.0, 20, 30, 60]])
    assert Geometry((100, 200), (200, 400)).to_network(boxes).tolist() == [[20, 40, 60, 120]]
    assert Geometry((100, 200), (200, 400), True).to_network(boxes).tolist() == [[340, 40, 380, 120]]
    assert Geometry((100, 200), (50, 400)).to_network(boxes).tolist() == [[20, 10, 60, 30]]
    # The part from (5, 10) to (45, 60) twice as large: x 10..30 is 5..25 of 40, so 10..50 of 80; y 20..100.
    part = (5, 10, 45, 60)
    assert Geometry((100, 200), (100, 80), window=part).to_network(boxes).tolist() == [[10, 20, 50, 100]]
    assert Geometry((100, 200), (100, 80), True, part).to_network(boxes).tolist() == [[30, 20, 70, 100]]


def test_to_the_image_by_hand():
    # A 100 x 200 file seen at 50 x 80 px: x grows by 2.5, y by 2.
    boxes = np.array([[8.0, 10, 40, 25]], dtype=np.float32)
    assert Geometry((100, 200), (50, 80)).to_image(boxes).tolist() == [[20, 20, 100, 50]]
    # Mirrored, x runs from the other side: 80 - 40 = 40 and 80 - 8 = 72.
    assert Geometry((100, 200), (50, 80), True).to_image(boxes).tolist() == [[100, 20, 180, 50]]
    # The part from (50, 20) to (90, 45) twice as large: halved, then moved.
    assert Geometry((100, 200), (50, 80), window=(50, 20, 90, 45)).to_image(boxes).tolist() == [[54, 25, 70, 32.5]]
    assert Geometry((100, 200), (50, 80)).to_image(boxes).dtype == np.float64


@given(geometries())
def test_there_and_back(geometry: Geometry):
    height, width = geometry.size_orig
    boxes = np.array([[0, 0, width, height], [0.25 * width, 0.5 * height, 0.3 * width, 0.9 * height]])
    np.testing.assert_allclose(geometry.to_image(geometry.to_network(boxes)), boxes, atol=1e-9)


@given(geometries())
def test_the_network_input_is_the_window(geometry: Geometry):
    (height, width), (height_orig, width_orig) = geometry.size, geometry.size_orig
    window = geometry.window or (0, 0, width_orig, height_orig)
    np.testing.assert_allclose(geometry.to_image(np.array([[0.0, 0, width, height]])), [window], atol=1e-9)
    seen = geometry.crop(np.arange(height_orig * width_orig).reshape(height_orig, width_orig))
    assert seen.shape == (window[3] - window[1], window[2] - window[0])
    assert seen[0, 0] == window[1] * width_orig + window[0]


def test_a_window_that_is_the_whole_image_changes_no_bit():
    boxes = np.random.default_rng(0).uniform(-50, 700, (200, 4))
    for flipped in (False, True):
        plain = Geometry((427, 640), (800, 1199), flipped)
        window = Geometry((427, 640), (800, 1199), flipped, (0, 0, 640, 427))
        assert np.array_equal(plain.to_network(boxes), window.to_network(boxes))
        assert np.array_equal(plain.to_image(boxes), window.to_image(boxes))


def test_clipping_in_both_pixel_systems():
    geometry = Geometry((30, 70), (60, 140), window=(1, 2, 71, 32))
    boxes = np.array([[-5.0, 10, 200, 100]])
    assert geometry.clip_to_network(boxes).tolist() == [[0, 10, 140, 60]]
    assert geometry.clip_to_image(boxes).tolist() == [[0, 10, 70, 30]]


def test_masks_by_hand():
    mask = np.ones((3, 4), dtype=np.uint8)
    assert Geometry((3, 4), (9, 9)).hide_unseen(mask) is mask
    hidden = Geometry((3, 4), (9, 9), window=(1, 0, 3, 2)).hide_unseen(mask)
    assert hidden.tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert mask.all()
    cells = np.arange(8).reshape(2, 2, 2)
    assert Geometry((3, 4), (9, 9)).mirror_masks(cells).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert Geometry((3, 4), (9, 9), True).mirror_masks(cells).tolist() == [[[1, 0], [3, 2]], [[5, 4], [7, 6]]]

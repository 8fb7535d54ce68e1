"""Parts of the generated images: masks checked by hand, pens and drawings, and exact annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO

from fpn_lightning.data.synthetic.annotations import outlines, run_lengths, to_annotation
from fpn_lightning.data.synthetic.clutter import CLUTTER
from fpn_lightning.data.synthetic.scene import SceneObject, _majority, unit_side
from fpn_lightning.data.synthetic.shapes import CATEGORIES, Inks, Pen, rectangle

INKS = Inks((255, 0, 0), (0, 255, 0), (1, 1, 1), (255, 255, 255))


def test_outlines_by_hand() -> None:
    pixel = np.zeros((4, 5), np.uint8)
    pixel[1, 2] = 1
    (loop,) = outlines(pixel)
    assert {tuple(loop[i : i + 2]) for i in range(0, 8, 2)} == {(2, 1), (3, 1), (3, 2), (2, 2)}
    annulus = np.ones((3, 3), np.uint8)
    annulus[1, 1] = 0
    assert sorted(len(loop) for loop in outlines(annulus)) == [8, 8]
    assert outlines(np.eye(2, dtype=np.uint8)) == [], "two pixels that touch at a corner have no unique outline"


def test_run_lengths_by_hand() -> None:
    # Down the columns: 0 1 | 1 1, and 1 0 | 0 0.
    assert run_lengths(np.array([[0, 1], [1, 1]], np.uint8)) == {"size": [2, 2], "counts": [1, 3]}
    assert run_lengths(np.array([[1, 0], [0, 0]], np.uint8)) == {"size": [2, 2], "counts": [0, 1, 3]}


@given(arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=st.integers(0, 1)), st.booleans())
def test_any_mask_survives_its_annotation(mask: np.ndarray, is_crowd: bool) -> None:
    mask[0, 0] = 1
    coco = COCO()
    coco.imgs = {1: {"height": mask.shape[0], "width": mask.shape[1]}}
    annotation = to_annotation(SceneObject(3, is_crowd, mask))
    np.testing.assert_array_equal(coco.annToMask({**annotation, "image_id": 1}), mask)


def test_a_mask_has_the_pixels_with_most_quarters() -> None:
    blocks = [[[1, 1], [1, 0]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [0, 0]]]
    owned = np.concatenate([np.array(block, bool) for block in blocks], axis=1)
    assert _majority(owned).tolist() == [[1, 1, 0, 0]]  # three; two with the top left; two without; one


def test_a_pen_owns_the_pixels_it_paints_and_hides_those_below() -> None:
    canvas, owners = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)
    matrix = np.array([[10.0, 0, 20], [0, 10.0, 20]])
    Pen(canvas, owners, matrix, 1, INKS).fill(INKS.main, rectangle(-1, -1, 1, 1))
    Pen(canvas, owners, matrix, 2, INKS).fill(INKS.accent, rectangle(0, -1, 1, 1))
    np.testing.assert_array_equal(owners == 1, (canvas == INKS.main).all(axis=2))
    np.testing.assert_array_equal(owners == 2, (canvas == INKS.accent).all(axis=2))
    assert (owners == 1).sum() == 10 * 21, "fillPoly includes the outline, and object 2 hides columns 20 to 30"


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_each_category_fills_its_frame(category: Any) -> None:
    canvas, owners = np.zeros((90, 90, 3), np.uint8), np.zeros((90, 90), np.uint8)
    matrix = np.array([[30.0, 0, 45], [0, 30.0, 45]])
    category.draw(Pen(canvas, owners, matrix, 7, INKS), np.random.default_rng(0))
    ys, xs = np.nonzero(owners)
    assert 45 <= np.ptp(xs) <= 66
    assert 25 <= np.ptp(ys) <= 66
    np.testing.assert_array_equal(owners == 7, canvas.any(axis=2))
    assert 1 < unit_side(category) < 2


@pytest.mark.parametrize("draw", list(dict.fromkeys(CLUTTER)), ids=lambda draw: draw.__name__)
def test_clutter_has_no_owner_and_hides_objects(draw: Any) -> None:
    canvas, owners = np.zeros((90, 90, 3), np.uint8), np.full((90, 90), 7, np.uint8)
    draw(Pen(canvas, owners, np.array([[30.0, 0, 45], [0, 30.0, 45]]), 0, INKS), np.random.default_rng(0))
    assert (owners == 0).sum() > 90
    np.testing.assert_array_equal(owners == 0, canvas.any(axis=2))

"""No picture of a folder overwrites another."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpn_lightning.drawing.names import picture_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.tiff"], ["a.png", "b.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["a.jpg", "A.png"], ["a.jpg.png", "A.png.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.png", "a.png.png", "a.jpg.png.png"]),
        (["photo"], ["photo.png"]),
        (["x.y.jpg"], ["x.y.png"]),
    ],
)
def test_names(names, expected):
    assert picture_names(names) == expected


@given(st.lists(st.text("ab.", min_size=1, max_size=6), unique=True))
def test_all_are_different(stems):
    names = [f"{stem}.{extension}" for stem in stems for extension in ("jpg", "png")]
    assert len(set(picture_names(names))) == len(names)
    assert set("".join(picture_names(names))) <= set(string.ascii_letters + ".")

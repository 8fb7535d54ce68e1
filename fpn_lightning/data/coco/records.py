"""Checks the records of a COCO annotation file: images, categories and annotations.

All records are checked before anything is made of them, so that one error can name every kind of mistake in a file.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import listed

Record = dict[str, Any]
LARGEST = 1e15  # px and px²; larger numbers would overflow in an IoU
SEGMENTATION = "polygons (a list) or RLE (an object)"
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which cannot be written to a file
# Paths that are absolute on some system or lead out of the split's folder: images are read from that folder only.
OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\0")


class Columns(NamedTuple):
    """All M annotations of a file, in its order.

    Attributes:
        ids: int64 ``(M,)``.
        image_ids: int64 ``(M,)``.
        category_ids: int64 ``(M,)``.
        boxes_xywh: float64 ``(M, 4)`` px.
        areas: float64 ``(M,)`` px².
        is_crowd: bool ``(M,)``.
        segmentations: M JSON texts; empty without a segmentation.
        has_mask: bool ``(M,)``; False where there is no segmentation, or one that is not a mask of the image.
    """

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    segmentations: list[bytes]
    has_mask: NDArray[np.bool_]


def short(value: Any) -> str:
    """A value for a message, cut to 60 characters."""
    text = reprlib.repr(value)  # repr itself fails on deeply nested values
    return text if len(text) <= 60 else text[:57] + "..."


def _is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # `type is`, since True is an int to isinstance


def _is_text(value: Any) -> bool:
    return type(value) is str and not SURROGATE.search(value)


def _is_file_name(value: Any) -> bool:
    return _is_text(value) and value != "" and not OUTSIDE.search(value)


def _is_number(value: Any) -> bool:
    # False for NaN and Infinity, which Python's JSON reader accepts, and for integers beyond every float.
    return type(value) in (float, int) and -LARGEST < value < LARGEST


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(map(_is_number, value))


def _is_side(value: Any) -> bool:
    return _is_id(value) and value >= 1


# For each kind of record, the checked keys: name, test of the value, and the text of a message about it.
FIELDS: dict[str, list[tuple[str, Callable[[Any], bool], str]]] = {
    "image": [
        # Random numbers are drawn from image ids, so they may not be negative.
        ("id", lambda value: _is_id(value) and value >= 0, "an integer of at least 0"),
        ("height", _is_side, "an integer of at least 1"),
        ("width", _is_side, "an integer of at least 1"),
        (
            "file_name",
            _is_file_name,
            "the name of a file in the image folder, without the folders of the computer that wrote it",
        ),
    ],
    "category": [("id", _is_id, "an integer"), ("name", _is_text, "a string of valid Unicode")],
    "annotation": [
        ("id", _is_id, "an integer"),
        ("image_id", _is_id, "an integer"),
        ("category_id", _is_id, "an integer"),
        ("bbox", _is_box, "four numbers [x, y, width, height] below 1e15"),
        (
            "area",
            _is_number,
            "a number below 1e15: COCO's size classes go by the object's area in px² (width * height without masks)",
        ),
        ("iscrowd", (None, 0, 1).__contains__, "0 or 1"),
        ("segmentation", lambda value: value is None or type(value) in (list, dict), SEGMENTATION),
    ],
}
# Boxes can be scored without them.
FOR_PIXELS = ("height", "width", "file_name")


def problems_of(path: Path, kind: str, records: list[Record]) -> list[str]:
    """One message for each key whose value is wrong, or missing where it is always needed."""
    found = []
    for key, fits, expected in FIELDS[kind]:
        wrong = [record for record in records if not fits(record.get(key))]
        if key in FOR_PIXELS:
            wrong = [record for record in wrong if key in record]
        found += problem_of(path, kind, records, wrong, key, expected)
    return found


def lacking_pixels(path: Path, images: list[Record]) -> list[str]:
    """One message for each key that images lack and that only the scoring of boxes can do without."""
    expectations = {key: expected for key, _, expected in FIELDS["image"]}
    found = []
    for key in FOR_PIXELS:
        wrong = [image for image in images if key not in image]
        found += problem_of(path, "image", images, wrong, key, expectations[key])
    return found


def problem_of(path: Path, kind: str, records: list[Record], wrong: list[Record], key: str, expected: str) -> list[str]:
    """The message about the records whose value of a key is wrong: the first with its value, the others by id.

    Args:
        path: the annotation file.
        kind: ``image``, ``category`` or ``annotation``.
        records: all records of that kind.
        wrong: those that are wrong; without any there is no message.
        key: the key.
        expected: what its value has to be.
    """
    if not wrong:
        return []
    first, *others = wrong
    number = next(i for i, record in enumerate(records) if record is first)
    name = f"{kind} {short(first['id'])}" if key != "id" and "id" in first else f"{kind} number {number} (from 0)"
    found = f"'{key}' is {short(first[key])}" if key in first else f"'{key}' is missing"
    ids = listed([short(record.get("id")) for record in others])
    more = f"; {len(others)} others are wrong too: {ids}" if others and key != "id" else ""
    return [f"{path}: {name}: {found}; expected {expected}{more}"]


def integers(records: list[Record], key: str) -> NDArray[np.int64]:
    """The values of a key that holds integers, int64 ``(N,)``."""
    return np.array([record[key] for record in records], dtype=np.int64)


def _unique(path: Path, kind: str, ids: NDArray[np.int64]) -> list[str]:
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1].tolist()
    return [f"{path}: duplicate {kind} id {listed(repeated)}; ids must be unique, renumber them"] if repeated else []


def wrong_ids(path: Path, images: list[Record], categories: list[Record], annotations: Columns) -> list[str]:
    """What is wrong with ids that are integers: repeated, unknown, or misread by COCO's evaluators."""
    of_images, of_categories, ids = integers(images, "id"), integers(categories, "id"), annotations.ids
    problems = [*_unique(path, "image", of_images), *_unique(path, "category", of_categories)]
    problems += _unique(path, "annotation", ids)
    if wrong := ids[ids <= 0].tolist():
        problems.append(
            f"{path}: annotation id {listed(wrong)}; COCO evaluators take id 0 for 'unmatched' and score it wrongly, "
            "number annotations from 1"
        )
    if problems:
        return problems  # unknown ids may only follow from these
    for key, values, known, where in (
        ("image_id", annotations.image_ids, of_images, "'images'"),
        ("category_id", annotations.category_ids, of_categories, "'categories'"),
    ):
        unknown = ~np.isin(values, known)
        if unknown.any():
            problems.append(
                f"{path}: annotation {listed(ids[unknown].tolist())}: unknown {key} "
                f"{listed(np.unique(values[unknown]).tolist())}; add it to {where} or remove these annotations"
            )
    return problems

"""Check the records of a COCO annotation file: images, categories and annotations.

All records are checked before any record is converted, so one error can list every kind of mistake in a file.
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
LARGEST = 1e15  # upper limit of box coordinates (px) and areas (px²); the IoU of larger boxes could overflow
SEGMENTATION = "polygons (a list) or RLE (an object)"
SURROGATE = re.compile(r"[\ud800-\udfff]")  # matches half of a Unicode surrogate pair, which cannot be encoded as UTF-8
# Matches file names that are absolute paths (on Linux or Windows) or lead out of the image folder. Images are only read
# from the image folder.
OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\0")


class Columns(NamedTuple):
    """The M annotations of a file, in the order of the file. Each array or list has one entry per annotation.

    Attributes:
        ids, image_ids, category_ids: int64 ``(M,)``.
        boxes_xywh: float64 ``(M, 4)`` px.
        areas: float64 ``(M,)`` px².
        is_crowd: bool ``(M,)``.
        segmentations: JSON text of each segmentation; empty for an annotation without segmentation.
        has_mask: bool ``(M,)``; False if the annotation has no segmentation or an invalid segmentation.
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
    """Convert a value to text of at most 60 characters, for use in a message."""
    text = reprlib.repr(value)  # repr would raise RecursionError for deeply nested values
    return text if len(text) <= 60 else text[:57] + "..."


def _is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # isinstance would accept True as an int


def _is_text(value: Any) -> bool:
    return type(value) is str and not SURROGATE.search(value)


def _is_number(value: Any) -> bool:
    # The comparison rejects NaN and Infinity (Python's JSON parser accepts both) and integers too large for a float.
    return type(value) in (float, int) and -LARGEST < value < LARGEST


def _is_side(value: Any) -> bool:
    return _is_id(value) and value >= 1


# The keys that are checked in each kind of record: (key, test of the key's value, description of valid values).
FIELDS: dict[str, list[tuple[str, Callable[[Any], bool], str]]] = {
    "image": [
        # Image ids seed random generators, which reject negative seeds.
        ("id", lambda value: _is_id(value) and value >= 0, "an integer of at least 0"),
        ("height", _is_side, "an integer of at least 1"),
        ("width", _is_side, "an integer of at least 1"),
        (
            "file_name",
            lambda value: _is_text(value) and value != "" and not OUTSIDE.search(value),
            "the path of the image file relative to the image folder, without '..'",
        ),
    ],
    "category": [("id", _is_id, "an integer"), ("name", _is_text, "a string of valid Unicode")],
    "annotation": [
        ("id", _is_id, "an integer"),
        ("image_id", _is_id, "an integer"),
        ("category_id", _is_id, "an integer"),
        (
            "bbox",
            lambda value: type(value) is list and len(value) == 4 and all(map(_is_number, value)),
            "four numbers [x, y, width, height] below 1e15",
        ),
        (
            "area",
            _is_number,
            "a number below 1e15: the object's area in px² (width * height if the object has no mask), by which COCO "
            "assigns the object to a size class",
        ),
        ("iscrowd", (None, 0, 1).__contains__, "0 or 1"),
        ("segmentation", lambda value: value is None or type(value) in (list, dict), SEGMENTATION),
    ],
}
FOR_PIXELS = ("height", "width", "file_name")  # keys of an image that are not needed to score boxes


def problems_of(path: Path, kind: str, records: list[Record]) -> list[str]:
    """Return one message for each key with a wrong value in any record.

    A missing ``height``, ``width`` or ``file_name`` is accepted here (see :func:`lacking_pixels`).
    """
    found = []
    for key, fits, expected in FIELDS[kind]:
        wrong = [record for record in records if not fits(record.get(key)) and (key in record or key not in FOR_PIXELS)]
        found += problem_of(path, kind, records, wrong, key, expected)
    return found


def lacking_pixels(path: Path, images: list[Record]) -> list[str]:
    """Return one message for each key in ``FOR_PIXELS`` that is missing in at least one image."""
    found = []
    for key, _, expected in FIELDS["image"]:
        if key in FOR_PIXELS:
            wrong = [image for image in images if key not in image]
            found += problem_of(path, "image", images, wrong, key, expected)
    return found


def problem_of(path: Path, kind: str, records: list[Record], wrong: list[Record], key: str, expected: str) -> list[str]:
    """Return a list with one message about the wrong values of a key, or an empty list if ``wrong`` is empty.

    The message shows the value of the first record in ``wrong``, and the ids of the other records in ``wrong``.

    Args:
        path: path of the annotation file.
        kind: kind of the records: ``image``, ``category`` or ``annotation``.
        records: all records of this kind.
        wrong: the records with a wrong value of ``key``.
        key: the key with wrong values.
        expected: description of valid values of ``key``.
    """
    if not wrong:
        return []
    first, *others = wrong
    number = next(i for i, record in enumerate(records) if record is first)
    name = f"{kind} {short(first['id'])}" if key != "id" and "id" in first else f"{kind} at index {number}"
    found = f"'{key}' is {short(first[key])}" if key in first else f"'{key}' is missing"
    ids = listed([short(record.get("id")) for record in others])
    more = f"; also wrong for other ids ({len(others)}): {ids}" if others and key != "id" else ""
    return [f"{path}: {name}: {found}; expected {expected}{more}"]


def integers(records: list[Record], key: str) -> NDArray[np.int64]:
    """Return the values of ``key``, which are integers, as int64 ``(N,)``."""
    return np.array([record[key] for record in records], dtype=np.int64)


def wrong_ids(path: Path, images: list[Record], categories: list[Record], annotations: Columns) -> list[str]:
    """Return one message for each kind of wrong id.

    An id is wrong if it is repeated or unknown. Annotation ids of 0 or less are wrong too, because COCO's evaluators
    read annotation id 0 as "unmatched".
    """
    of_images, of_categories, ids = integers(images, "id"), integers(categories, "id"), annotations.ids
    problems = []
    for kind, all_ids in (("image", of_images), ("category", of_categories), ("annotation", ids)):
        different, counts = np.unique(all_ids, return_counts=True)
        if repeated := different[counts > 1].tolist():
            problems.append(f"{path}: duplicate {kind} id {listed(repeated)}; ids must be unique, so renumber them")
    if wrong := ids[ids <= 0].tolist():
        problems.append(
            f"{path}: annotation id {listed(wrong)}; COCO's evaluators read id 0 as 'unmatched' and score the object "
            "wrongly, so number annotations from 1"
        )
    # If an image or category has the id of another one by mistake, annotations with its correct id seem to refer to an
    # unknown id. Unknown ids are therefore reported only if no id is repeated or wrong.
    if problems:
        return problems
    for key, values, known, where in (
        ("image_id", annotations.image_ids, of_images, "'images'"),
        ("category_id", annotations.category_ids, of_categories, "'categories'"),
    ):
        unknown = ~np.isin(values, known)
        if unknown.any():
            problems.append(
                f"{path}: annotation {listed(ids[unknown].tolist())}: unknown {key} "
                f"{listed(np.unique(values[unknown]).tolist())}; add the id to {where} or remove these annotations"
            )
    return problems

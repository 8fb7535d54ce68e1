"""COCO annotation JSON, checked and turned into arrays.

Every mistake that would silently spoil training or evaluation is an error here, which names the file and the ids.
Boxes that are only unusable for training (inverted, empty, outside the image) are accepted: evaluation needs them as
they are.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError

Record = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
COMPACT = json.JSONEncoder(separators=(",", ":"))
LARGEST = 1e15  # px and px²; larger numbers would overflow in an IoU
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which cannot be written to a file
# Paths that are absolute on some system or lead out of the split's folder: images are read from that folder only.
OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\0")


@dataclass(frozen=True)
class Categories:
    """The categories of a data set; label k belongs to the k-th smallest category id.

    Attributes:
        ids: category ids, ascending.
        names: their names, in the same order.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def to_category_ids(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn labels in [0, K), any shape, into category ids; IndexError for a label outside."""
        labels = np.asarray(labels, dtype=np.int64)
        if labels.size and labels.min() < 0:
            raise IndexError(f"labels lie in [0, {len(self)}), got {labels.min()}")
        return np.asarray(self.ids, dtype=np.int64)[labels]

    def to_labels(self, category_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn category ids, any shape, into labels in [0, K); KeyError for an unknown id."""
        category_ids = np.asarray(category_ids, dtype=np.int64)
        known = np.asarray(self.ids, dtype=np.int64)
        if unknown := np.setdiff1d(category_ids, known).tolist():
            raise KeyError(f"no such category id: {unknown[:5]}")
        return np.searchsorted(known, category_ids)


def read_annotations(path: Path, content: bytes) -> tuple[Record, Arrays]:
    """Check the content of an annotation file and turn it into arrays.

    Args:
        path: where the content comes from; only for messages.
        content: the file's bytes.

    Returns:
        ``(facts, arrays)``. Facts: ``description`` (str, may be empty), ``has_annotations``, ``categories`` (lists of
        ids and names) and ``supercategories`` (a name, or None, for each category). The arrays are those of
        :class:`fpn_lightning.data.coco.index.COCOIndex`.

    Raises:
        InputError: the file is not COCO detection JSON; the message names the ids.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). The file may be cut short; download it again.") from error
    if type(document) is not dict:
        raise InputError(f"{path}: expected a JSON object with 'images' and 'annotations', found a list or a value")
    images = _records(path, document, "images", "image")
    if not images:
        raise InputError(f"{path}: 'images' is empty; a split needs at least one image")
    categories = _categories(path, document)
    arrays = _image_arrays(path, images)
    has_annotations = "annotations" in document
    annotations = _records(path, document, "annotations", "annotation") if has_annotations else []
    arrays |= _object_arrays(path, annotations, arrays["image_ids"], categories)
    description = info.get("description") if type(info := document.get("info")) is dict else None
    facts = {
        "description": description if type(description) is str else "",
        "has_annotations": has_annotations,
        "categories": [list(categories.ids), list(categories.names)],
        "supercategories": _supercategories(document),
    }
    return facts, arrays


def _records(path: Path, document: Record, key: str, kind: str) -> list[Record]:
    records = document.get(key)
    if type(records) is not list:
        problem = "is missing" if key not in document else f"is a {type(records).__name__}, not a list"
        raise InputError(f"{path}: '{key}' {problem}; is this a COCO instances file?")
    for i, record in enumerate(records):
        if type(record) is not dict:
            raise InputError(f"{path}: {kind} number {i} is not a JSON object but {_short(record)}")
    return records


def _short(value: Any) -> str:
    text = reprlib.repr(value)  # repr itself fails on deeply nested values
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _error(path: Path, kind: str, records: Sequence[Record], i: int, key: str, expected: str) -> InputError:
    record = records[i]
    name = f"{kind} {_short(record['id'])}" if key != "id" and "id" in record else f"{kind} number {i} (from 0)"
    found = f"'{key}' is {_short(record[key])}" if key in record else f"'{key}' is missing"
    return InputError(f"{path}: {name}: {found}; expected {expected}")


def _checked(
    path: Path, kind: str, records: list[Record], key: str, fits: Callable[[Any], object], expected: str
) -> list[Any]:
    values = [record.get(key) for record in records]
    for i, value in enumerate(values):
        if not fits(value):
            raise _error(path, kind, records, i, key, expected)
    return values


def _integers(path: Path, kind: str, records: list[Record], key: str, low: int = -(2**63)) -> NDArray[np.int64]:
    expected = "an integer" if low < 0 else f"an integer of at least {low}"
    # `type is`, since True is an int to isinstance.
    values = _checked(path, kind, records, key, lambda value: type(value) is int and low <= value < 2**63, expected)
    return np.array(values, dtype=np.int64)


def _unique(path: Path, kind: str, ids: NDArray[np.int64]) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if repeated := values[counts > 1].tolist():
        raise InputError(f"{path}: duplicate {kind} id {_listed(repeated)}; ids must be unique, renumber them")


def _categories(path: Path, document: Record) -> Categories:
    if "categories" not in document and "annotations" not in document:
        return Categories((), ())
    records = _records(path, document, "categories", "category")
    ids = _integers(path, "category", records, "id")
    _unique(path, "category", ids)
    names = _checked(path, "category", records, "name", _is_text, "a string of valid Unicode")
    order = np.argsort(ids).tolist()
    return Categories(tuple(ids[order].tolist()), tuple(names[i] for i in order))


def _image_arrays(path: Path, images: list[Record]) -> Arrays:
    # Random numbers are drawn from image ids, so they may not be negative.
    ids = _integers(path, "image", images, "id", low=0)
    _unique(path, "image", ids)
    sizes = [_integers(path, "image", images, key, low=1) for key in ("height", "width")]
    file_names = _checked(path, "image", images, "file_name", _is_file_name, "the name of a file in the image folder")
    order = np.argsort(ids)
    names, name_offsets = _blob([file_names[i].encode() for i in order.tolist()])
    return {
        "image_ids": ids[order],
        "sizes": np.stack(sizes, axis=1)[order],
        "file_names": names,
        "file_name_offsets": name_offsets,
    }


def _object_arrays(
    path: Path, annotations: list[Record], image_ids: NDArray[np.int64], categories: Categories
) -> Arrays:
    ids = _integers(path, "annotation", annotations, "id")
    if wrong := ids[ids <= 0].tolist():
        raise InputError(
            f"{path}: annotation id {_listed(wrong)}; COCO evaluators take id 0 for 'unmatched' and score it wrongly, "
            "number annotations from 1"
        )
    _unique(path, "annotation", ids)
    images_of = _integers(path, "annotation", annotations, "image_id")
    category_ids = _integers(path, "annotation", annotations, "category_id")
    for key, values, known, where in (
        ("image_id", images_of, image_ids, "'images'"),
        ("category_id", category_ids, categories.ids, "'categories'"),
    ):
        unknown = ~np.isin(values, np.asarray(known, dtype=np.int64))
        if unknown.any():
            raise InputError(
                f"{path}: annotation {_listed(ids[unknown].tolist())}: unknown {key} "
                f"{_listed(np.unique(values[unknown]).tolist())}; add it to {where} or remove these annotations"
            )
    boxes = _checked(path, "annotation", annotations, "bbox", _is_box, "four numbers [x, y, width, height] below 1e15")
    expected = "a number below 1e15: COCO's size classes go by the object's area in px² (width * height without masks)"
    areas = _checked(path, "annotation", annotations, "area", _is_number, expected)
    crowd = [annotation.setdefault("iscrowd", 0) for annotation in annotations]
    _checked(path, "annotation", annotations, "iscrowd", (0, 1).__contains__, "0 or 1")
    places = np.searchsorted(image_ids, images_of)
    # Stable: within an image the file's order decides ties in COCO's matching.
    order = np.argsort(places, kind="stable")
    segmentations, offsets = _blob([_segmentation(path, annotations, i) for i in order.tolist()])
    return {
        "object_offsets": np.searchsorted(places[order], np.arange(len(image_ids) + 1)).astype(np.int64),
        "annotation_ids": ids[order],
        "boxes_xywh": np.array(boxes, dtype=np.float64).reshape(-1, 4)[order],
        "areas": np.array(areas, dtype=np.float64)[order],
        "is_crowd": np.array(crowd, dtype=np.bool_)[order],
        "labels": categories.to_labels(category_ids[order]),
        "segmentations": segmentations,
        "segmentation_offsets": offsets,
    }


def _is_text(value: Any) -> bool:
    return type(value) is str and not SURROGATE.search(value)


def _is_file_name(value: Any) -> bool:
    return _is_text(value) and value != "" and not OUTSIDE.search(value)


def _is_number(value: Any) -> bool:
    # False for NaN and Infinity, which Python's JSON reader accepts, and for integers beyond every float.
    return type(value) in (float, int) and -LARGEST < value < LARGEST


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(map(_is_number, value))


def _segmentation(path: Path, annotations: list[Record], i: int) -> bytes:
    segmentation = annotations[i].get("segmentation")
    if segmentation is None:
        return b""
    with suppress(RecursionError):
        if type(segmentation) in (list, dict):
            return COMPACT.encode(segmentation).encode()
    raise _error(path, "annotation", annotations, i, "segmentation", "polygons (a list) or RLE (an object)")


def _blob(pieces: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets


def _supercategories(document: Record) -> list[str | None]:
    """The supercategory of each category, by id. Only labels by supercategory need them, so they may be missing."""
    records = sorted(document.get("categories", []), key=lambda record: record["id"])
    names = [record.get("supercategory") for record in records]
    return [name if type(name) is str and name and name.isprintable() else None for name in names]

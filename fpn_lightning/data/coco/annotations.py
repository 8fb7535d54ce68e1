"""Check the JSON of a COCO annotation file and convert its records to arrays.

If a mistake in the file would silently corrupt training or evaluation, an error states the path of the file and the ids
of the wrong records. Boxes with zero or negative width or height, and boxes outside the image, are accepted: COCO's
evaluation uses these boxes, and training leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.plain_annotations import plain_annotations
from fpn_lightning.data.coco.records import (
    SEGMENTATION,
    Columns,
    Record,
    integers,
    lacking_pixels,
    problem_of,
    problems_of,
    short,
    wrong_ids,
)
from fpn_lightning.data.coco.segmentations import segmentation_fault
from fpn_lightning.errors import InputError

Arrays = dict[str, NDArray[Any]]
COMPACT = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True)
class Categories:
    """The K categories of a data set. The label of a category is its index in ``ids``, from 0 to K - 1.

    Attributes:
        ids: category ids, ascending.
        names: category names, in the order of ``ids``.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def to_category_ids(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert labels in [0, K), of any shape, to category ids; raise IndexError for a label outside [0, K)."""
        labels = np.asarray(labels, dtype=np.int64)
        if labels.size and labels.min() < 0:
            raise IndexError(f"labels must be in [0, {len(self)}), got {labels.min()}")
        return np.asarray(self.ids, dtype=np.int64)[labels]

    def to_labels(self, category_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert category ids, of any shape, to labels in [0, K); raise KeyError for an unknown id."""
        category_ids = np.asarray(category_ids, dtype=np.int64)
        known = np.asarray(self.ids, dtype=np.int64)
        if unknown := np.setdiff1d(category_ids, known).tolist():
            raise KeyError(f"unknown category ids: {unknown[:5]}")
        return np.searchsorted(known, category_ids)


def read_annotations(path: Path, content: bytes) -> tuple[Record, Arrays]:
    """Check the content of a COCO annotation file and convert it to arrays.

    Args:
        path: path of the annotation file, used in messages only.
        content: all bytes of the annotation file.

    Returns:
        ``(facts, arrays)``. ``arrays`` become attributes of :class:`fpn_lightning.data.coco.index.COCOIndex`. The keys
        of ``facts`` are ``description`` (str, may be empty), ``has_annotations`` (bool), ``categories`` (a list of ids
        and a list of names), ``supercategories`` (a name or None for each category) and ``images_lack`` (messages about
        keys that images lack). ``images_lack`` has one message for each of the keys ``file_name``, ``height`` and
        ``width`` that is missing in at least one image. An image may lack these keys only if the file is used just to
        score boxes.

    Raises:
        InputError: the file is not valid COCO detection JSON. The message states the ids of the wrong records.
    """
    document = _document(path, content)
    has_annotations = "annotations" in document
    images = _records(path, document, "images")
    if not images:
        raise InputError(f"{path}: 'images' is empty; a split needs at least one image")
    needs_categories = "categories" in document or has_annotations
    categories = _records(path, document, "categories") if needs_categories else []
    problems = [*problems_of(path, "image", images), *problems_of(path, "category", categories)]
    text, columns = document.get("annotations"), None
    size_of = {} if problems else {image["id"]: (image.get("height", 0), image.get("width", 0)) for image in images}
    if type(text) is msgspec.Raw and not problems:
        columns = plain_annotations(memoryview(text), size_of)
    if columns is None:
        annotations = _records(path, document, "annotations") if has_annotations else []
        problems += problems_of(path, "annotation", annotations)
        if problems:
            raise InputError(*problems)
        columns = _columns(path, annotations, size_of)
    if problems := wrong_ids(path, images, categories, columns):
        raise InputError(*problems)
    categories.sort(key=lambda record: record["id"])
    known = Categories(tuple(record["id"] for record in categories), tuple(record["name"] for record in categories))
    arrays = _image_arrays(images)
    arrays |= _object_arrays(columns, arrays, known)
    description = info.get("description") if type(info := _value(path, document, "info")) is dict else None
    facts = {
        "description": description if type(description) is str else "",
        "has_annotations": has_annotations,
        "categories": [list(known.ids), list(known.names)],
        "supercategories": _supercategories(categories),
        "images_lack": lacking_pixels(path, images),
    }
    return facts, arrays


def _document(path: Path, content: bytes) -> Record:
    """Decode the file. If the file is strict JSON, decode only its top-level keys, and keep each value as JSON text."""
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):  # Python's parser also accepts NaN, byte order marks and UTF-16
        document = _parse(path, content)
    if type(document) is not dict:
        raise InputError(
            f"{path}: expected a JSON object with 'images' and 'annotations', found {short(document)}; "
            "is this a COCO instances file?"
        )
    return document


def _value(path: Path, document: Record, key: str) -> Any:
    value = document.get(key)
    return _parse(path, bytes(value)) if type(value) is msgspec.Raw else value


def _parse(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}). The file may be incomplete; write or download it again."
        ) from error


def _records(path: Path, document: Record, key: str) -> list[Record]:
    records = _value(path, document, key)
    if type(records) is not list:
        problem = "is missing" if key not in document else f"is a {type(records).__name__}, not a list"
        raise InputError(f"{path}: '{key}' {problem}; is this a COCO instances file?")
    for i, record in enumerate(records):
        if type(record) is not dict:
            raise InputError(f"{path}: the entry at index {i} of '{key}' is {short(record)}; expected a JSON object")
    return records


def _image_arrays(images: list[Record]) -> Arrays:
    ids = integers(images, "id")
    sizes = np.array([[image.get("height", 0), image.get("width", 0)] for image in images], dtype=np.int64)
    order = np.argsort(ids)
    names, name_offsets = _blob([images[i].get("file_name", "").encode() for i in order.tolist()])
    return {"image_ids": ids[order], "sizes": sizes[order], "file_names": names, "file_name_offsets": name_offsets}


def _columns(path: Path, annotations: list[Record], size_of: Mapping[int, tuple[int, int]]) -> Columns:
    has_mask = [
        not segmentation_fault(record.get("segmentation"), *size_of.get(record["image_id"], (0, 0)))
        for record in annotations
    ]
    return Columns(
        ids=integers(annotations, "id"),
        image_ids=integers(annotations, "image_id"),
        category_ids=integers(annotations, "category_id"),
        boxes_xywh=np.array([record["bbox"] for record in annotations], dtype=np.float64).reshape(-1, 4),
        areas=np.array([record["area"] for record in annotations], dtype=np.float64),
        is_crowd=np.array([record.get("iscrowd") or 0 for record in annotations], dtype=np.bool_),
        segmentations=[_segmentation(path, annotation) for annotation in annotations],
        has_mask=np.array(has_mask, dtype=np.bool_),
    )


def _object_arrays(columns: Columns, images: Arrays, categories: Categories) -> Arrays:
    places = np.searchsorted(images["image_ids"], columns.image_ids)
    # A stable sort keeps the objects of an image in file order. COCO's matching depends on this order if a detection
    # has the same IoU with two objects.
    order = np.argsort(places, kind="stable")
    segmentations, offsets = _blob([columns.segmentations[i] for i in order.tolist()])
    return {
        "object_offsets": np.searchsorted(places[order], np.arange(len(images["image_ids"]) + 1)).astype(np.int64),
        "annotation_ids": columns.ids[order],
        "boxes_xywh": columns.boxes_xywh[order],
        "areas": columns.areas[order],
        "is_crowd": columns.is_crowd[order],
        "labels": categories.to_labels(columns.category_ids[order]),
        "segmentations": segmentations,
        "segmentation_offsets": offsets,
        "has_mask": columns.has_mask[order],
    }


def _segmentation(path: Path, annotation: Record) -> bytes:
    try:
        segmentation = annotation.get("segmentation")
        return b"" if segmentation is None else COMPACT.encode(segmentation).encode()
    except RecursionError:
        problems = problem_of(path, "annotation", [annotation], [annotation], "segmentation", SEGMENTATION)
        raise InputError(*problems) from None


def _blob(pieces: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets


def _supercategories(categories: list[Record]) -> list[str | None]:
    """Return the supercategory of each category, or None for a supercategory that is missing or not printable text."""
    names = [record.get("supercategory") for record in categories]
    return [name if type(name) is str and name and name.isprintable() else None for name in names]

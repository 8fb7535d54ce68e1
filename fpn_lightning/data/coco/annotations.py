"""COCO annotation JSON, checked and turned into arrays.

Every mistake that would silently spoil training or evaluation is an error here, which names the file and the ids.
Boxes that are only unusable for training (inverted, empty, outside the image) are accepted: evaluation needs them as
they are.
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
        ids and names), ``supercategories`` (a name, or None, for each category), and ``images_lack``: messages about
        images without ``file_name``, ``height`` or ``width``, which only the scoring of boxes can do without. The
        arrays are those of
        :class:`fpn_lightning.data.coco.index.COCOIndex`.

    Raises:
        InputError: the file is not COCO detection JSON; the message names the ids, for every kind of mistake.
    """
    document = _document(path, content)
    has_annotations = "annotations" in document
    images = _records(path, document, "images", "image")
    if not images:
        raise InputError(f"{path}: 'images' is empty; a split needs at least one image")
    needs_categories = "categories" in document or has_annotations
    categories = _records(path, document, "categories", "category") if needs_categories else []
    problems = [*problems_of(path, "image", images), *problems_of(path, "category", categories)]
    text, columns = document.get("annotations"), None
    size_of = {} if problems else {image["id"]: (image.get("height", 0), image.get("width", 0)) for image in images}
    if type(text) is msgspec.Raw and not problems:
        columns = plain_annotations(memoryview(text), size_of)
    if columns is None:
        annotations = _records(path, document, "annotations", "annotation") if has_annotations else []
        problems += problems_of(path, "annotation", annotations)
        if problems:
            raise InputError(*problems)
        columns = _columns(path, annotations, size_of)
    if problems := wrong_ids(path, images, categories, columns):
        raise InputError(*problems)
    named = sorted((record["id"], record["name"]) for record in categories)
    known = Categories(tuple(category_id for category_id, _ in named), tuple(name for _, name in named))
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
    """The object in a file, with the texts of its values if it is strictly JSON, else with the values."""
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):  # Python reads NaN, byte order marks and UTF-16 too
        document = _parse(path, content)
    if type(document) is not dict:
        raise InputError(f"{path}: expected a JSON object with 'images' and 'annotations', found a list or a value")
    return document


def _value(path: Path, document: Record, key: str) -> Any:
    value = document.get(key)
    return _parse(path, bytes(value)) if type(value) is msgspec.Raw else value


def _parse(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}). The file may be cut short; write or download it again."
        ) from error


def _records(path: Path, document: Record, key: str, kind: str) -> list[Record]:
    records = _value(path, document, key)
    if type(records) is not list:
        problem = "is missing" if key not in document else f"is a {type(records).__name__}, not a list"
        raise InputError(f"{path}: '{key}' {problem}; is this a COCO instances file?")
    for i, record in enumerate(records):
        if type(record) is not dict:
            raise InputError(f"{path}: {kind} number {i} is not a JSON object but {short(record)}")
    return records


def _image_arrays(images: list[Record]) -> Arrays:
    ids = integers(images, "id")
    sizes = np.array([[image.get("height", 0), image.get("width", 0)] for image in images], dtype=np.int64)
    order = np.argsort(ids)
    names, name_offsets = _blob([images[i].get("file_name", "").encode() for i in order.tolist()])
    return {
        "image_ids": ids[order],
        "sizes": sizes[order],
        "file_names": names,
        "file_name_offsets": name_offsets,
    }


def _columns(path: Path, annotations: list[Record], size_of: Mapping[int, tuple[int, int]]) -> Columns:
    return Columns(
        ids=integers(annotations, "id"),
        image_ids=integers(annotations, "image_id"),
        category_ids=integers(annotations, "category_id"),
        boxes_xywh=np.array([record["bbox"] for record in annotations], dtype=np.float64).reshape(-1, 4),
        areas=np.array([record["area"] for record in annotations], dtype=np.float64),
        is_crowd=np.array([record.get("iscrowd") or 0 for record in annotations], dtype=np.bool_),
        segmentations=[_segmentation(path, annotation) for annotation in annotations],
        has_mask=np.array(
            [
                not segmentation_fault(record.get("segmentation"), *size_of.get(record["image_id"], (0, 0)))
                for record in annotations
            ],
            dtype=np.bool_,
        ),
    )


def _object_arrays(columns: Columns, images: Arrays, categories: Categories) -> Arrays:
    places = np.searchsorted(images["image_ids"], columns.image_ids)
    # Stable: within an image the file's order decides ties in COCO's matching.
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
    """The supercategory of each category, by id. Only labels by supercategory need them, so they may be missing."""
    records = sorted(categories, key=lambda record: record["id"])
    names = [record.get("supercategory") for record in records]
    return [name if type(name) is str and name and name.isprintable() else None for name in names]

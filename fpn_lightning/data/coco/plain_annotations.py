"""Read valid COCO annotations fast and with little memory.

At an annotation that is invalid or unusual, this reader gives up without a message. The annotations are then read again
with the checks of :mod:`fpn_lightning.data.coco.records`. Those checks report every fault, but need several times as
much time and memory as this reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.pieces import pieces
from fpn_lightning.data.coco.records import LARGEST, Columns
from fpn_lightning.data.coco.segmentations import MAX_COORDINATE, segmentation_fault

Coordinate = Annotated[float, msgspec.Meta(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
Polygon = Annotated[list[Coordinate], msgspec.Meta(min_length=6)]
NULL = b"null"


class Annotation(msgspec.Struct, gc=False):
    """The keys that are read from each COCO annotation. All other keys of an annotation are ignored."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int = 0
    segmentation: msgspec.Raw = msgspec.Raw(NULL)


ANNOTATIONS: Any = msgspec.json.Decoder(list[Annotation])
SEGMENTATIONS: Any = msgspec.json.Decoder(list[list[Polygon] | dict[str, Any] | None])


def plain_annotations(text: memoryview, size_of: Mapping[int, tuple[int, int]]) -> Columns | None:
    """Convert a JSON list of annotations to arrays; return None if an annotation may be invalid.

    ``size_of`` maps an image id to the image's height and width.
    """
    parts: list[list[Any]] = []
    segmentations: list[bytes] = []
    try:
        for piece in pieces(text):
            records: list[Annotation] = ANNOTATIONS.decode(piece)
            texts = [bytes(record.segmentation) for record in records]
            if not all(text[:1] in (b"[", b"{") or text == NULL for text in texts):
                return None
            sizes = [size_of.get(record.image_id, (0, 0)) for record in records]
            segmentations += [b"" if text == NULL else text for text in texts]
            parts.append([*_numbers(records), _have_masks(texts, sizes)])
    except (ValueError, OverflowError, RecursionError):
        return None
    ids, image_ids, category_ids, boxes, areas, is_crowd, has_mask = map(np.concatenate, zip(*parts, strict=True))
    columns = Columns(ids, image_ids, category_ids, boxes.reshape(-1, 4), areas, is_crowd > 0, segmentations, has_mask)
    usual = (np.abs(boxes) < LARGEST).all() and (np.abs(areas) < LARGEST).all() and np.isin(is_crowd, (0, 1)).all()
    return columns if usual else None


def _numbers(records: list[Annotation]) -> list[NDArray[Any]]:
    """Return arrays of ids, image ids, category ids, box coordinates (4 per annotation), areas and crowd flags."""
    ids, image_ids, category_ids, is_crowd = (
        np.fromiter(map(attrgetter(name), records), np.int64, len(records))
        for name in ("id", "image_id", "category_id", "iscrowd")
    )
    boxes = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), records)), np.float64, 4 * len(records))
    areas = np.fromiter(map(attrgetter("area"), records), np.float64, len(records))
    return [ids, image_ids, category_ids, boxes, areas, is_crowd]


def _have_masks(texts: list[bytes], sizes: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return whether each segmentation is valid, bool ``(M,)``. Faster than calls of :func:`segmentation_fault`."""
    try:
        segmentations = SEGMENTATIONS.decode(b"[" + b",".join(texts) + b"]")
    except msgspec.ValidationError:  # at least one polygon is too short or has an invalid coordinate
        found = [not segmentation_fault(json.loads(text), *size) for text, size in zip(texts, sizes, strict=True)]
    else:
        found = [
            # The decoder has already checked that a polygon has at least 6 coordinates, all with valid type and range.
            all(len(polygon) % 2 == 0 for polygon in segmentation) and size[0] * size[1] < 2**31
            if type(segmentation) is list and segmentation
            else not segmentation_fault(segmentation, *size)
            for segmentation, size in zip(segmentations, sizes, strict=True)
        ]
    return np.array(found, dtype=np.bool_)

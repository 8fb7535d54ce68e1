"""Reads a result file that holds nothing but right, plain boxes, as nearly all do, in a tenth of the time."""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.file_names import FileNames

LARGEST = 1e15  # px; with larger numbers an IoU would overflow
LARGEST_SCORE = 1e300
LEAST_SIDE = -1.0  # px; rounding makes no width as negative as this


class Entry(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A result. Keys that are not here, such as ``segmentation``, need a closer look."""

    image_id: int
    bbox: tuple[float, float, float, float]
    score: float
    category_id: int | None = None
    category: str | None = None
    file_name: str | None = None
    id: int | None = None
    area: float | None = None


class PlainBoxes(NamedTuple):
    """The columns of a result file, in its order.

    Attributes:
        ids: int64 ``(D,)`` image ids.
        categories: int64 ``(D,)`` category ids; 0 where there is none.
        scores: float64 ``(D,)``.
        boxes: float64 ``(D, 4)`` xywh.
    """

    ids: NDArray[np.int64]
    categories: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]


def read_plain_boxes(path: Path, index: COCOIndex, with_classes: bool) -> PlainBoxes | None:
    """Read and check a whole file at once.

    Args:
        path: the result list.
        index: the annotation file that the results are for.
        with_classes: every result needs a category of the annotation file.

    Returns:
        ``None`` if any result is unusual or wrong: reading them one by one then accepts the one and names the other.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[Entry])
        names = FileNames(index)
        for image_id, name in set(map(attrgetter("image_id", "file_name"), entries)):
            names.check("", image_id, name)
        ids = np.fromiter(map(attrgetter("image_id"), entries), np.int64, len(entries))
        given = list(map(attrgetter("category_id"), entries))
        missing = given.count(None)
        categories = np.array([category or 0 for category in given] if missing else given, dtype=np.int64)
    except (OSError, ValueError, KeyError, OverflowError, RecursionError, InputError):
        return None
    scores = np.fromiter(map(attrgetter("score"), entries), np.float64, len(entries))
    sides = chain.from_iterable(map(attrgetter("bbox"), entries))
    boxes = np.fromiter(sides, np.float64, 4 * len(entries)).reshape(-1, 4)
    right = (
        np.isin(ids, index.image_ids).all()
        and (np.abs(scores) < LARGEST_SCORE).all()
        and (np.abs(boxes) < LARGEST).all()
        and (boxes[:, 2:] >= LEAST_SIDE).all()
        and not (with_classes and (missing or not np.isin(categories, index.categories.ids).all()))
    )
    return PlainBoxes(ids, categories, scores, boxes) if right else None

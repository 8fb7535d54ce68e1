"""Whether results can be of the images of an annotation file; if not, they would score a small number without a word.

Boxes are rejected only where all of them say so: a detector may place single boxes anywhere.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError

LEAVING = 0.1  # of the image's width or height: boxes that end further outside leave the image
OFTEN = 0.25  # fraction of boxes that leave the image


class FileNames:
    """Compares the names of files in results with those in the annotation file."""

    def __init__(self, index: COCOIndex) -> None:
        self.index = index
        self._checked: set[tuple[int, str]] = set()

    def check(self, name: str, image_id: int, given: object) -> None:
        """Check the ``file_name`` of a result, if there is one.

        Args:
            name: the result, for messages.
            image_id: its image id, which the annotation file lists.
            given: its ``file_name``.

        Raises:
            InputError: in the annotation file this id belongs to another file.
        """
        if not isinstance(given, str) or (image_id, given) in self._checked:
            return
        own = self.index.file_name(self.index.row(image_id))
        elsewhere = self._image_ids.get(given, image_id)
        if elsewhere != image_id or not _alike(own, given):
            belongs = f" (there image {elsewhere})" if elsewhere != image_id else ""
            raise InputError(
                f"{name}: file_name is {given!r}{belongs}, but the annotation file's image {image_id} is {own!r}. The "
                "ids are those of other data, or the running numbers of a folder: score the split that the results are "
                "for, and predict with --data.predict_split"
            )
        self._checked.add((image_id, given))

    @cached_property
    def _image_ids(self) -> dict[str, int]:
        return {self.index.file_name(i): image_id for i, image_id in enumerate(self.index.image_ids.tolist())}


def _alike(own: str, given: str) -> bool:
    """Whether two names may be one image's: their folders and extensions may differ, and the start of one.

    COCO 2014 puts ``COCO_val2014_`` before the name that 2017 gives to the same image.
    """
    names, others = ({Path(file).name, Path(file).stem} for file in (own, given.replace("\\", "/")))
    return any(one.endswith(other) or other.endswith(one) for one in names for other in others)


def check_boxes(path: Path, boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int64]) -> None:
    """Reject the boxes of a file if they are no x, y, width, height in pixels of the image files.

    Args:
        path: the result file.
        boxes_xywh: float64 ``(D, 4)`` all boxes of the file.
        sizes: int64 ``(D, 2)`` height and width of each box's image; 0 where they are unknown.

    Raises:
        InputError: the boxes are corners x1, y1, x2, y2; fractions of the image; or mostly outside it.
    """
    known = (sizes > 0).all(axis=1)
    start, extent, limit = boxes_xywh[known, :2], boxes_xywh[known, 2:], sizes[known, ::-1].astype(np.float64)
    if not len(limit):
        return
    leaves = (start + extent > (1 + LEAVING) * limit).any(axis=1).mean()
    if leaves >= OFTEN and (extent >= start).all() and (extent <= limit + 1).all() and (start >= -1).all():
        raise InputError(
            f"{path}: all boxes look like corners x1, y1, x2, y2: read as x, y, width, height, {leaves:.0%} of them "
            "leave their image; write x, y, width, height"
        )
    if (np.abs(boxes_xywh[known]) <= 1).all() and extent.any() and (limit > 10).all():
        raise InputError(
            f"{path}: all numbers of the boxes are at most 1; write pixels of the image file, not fractions"
        )
    outside = ((start > limit) | (start + extent < 0)).any(axis=1).mean()
    if outside > 0.5:
        raise InputError(
            f"{path}: {outside:.0%} of the boxes lie outside their image; write pixels of the image file, not of a "
            "resized one, and score the split that the results are for"
        )

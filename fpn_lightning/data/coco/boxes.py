"""Whether boxes can be x, y, width, height in pixels of their images, in results and in annotations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAVING = 0.1  # of the image's width or height: boxes that end further outside leave the image
OFTEN = 0.25  # fraction of boxes that leave the image


def boxes_fault(boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int64]) -> str:
    """Return why the boxes of a file cannot be xywh in pixels; an empty string if they can be.

    All of them have to say so: single boxes may lie anywhere.

    Args:
        boxes_xywh: float64 ``(D, 4)`` all boxes of the file.
        sizes: int64 ``(D, 2)`` height and width of each box's image; 0 where they are unknown.
    """
    known = (sizes > 0).all(axis=1)
    start, extent, limit = boxes_xywh[known, :2], boxes_xywh[known, 2:], sizes[known, ::-1].astype(np.float64)
    if not len(limit):
        return ""
    leaves = (start + extent > (1 + LEAVING) * limit).any(axis=1).mean()
    if leaves >= OFTEN and (extent >= start).all() and (extent <= limit + 1).all() and (start >= -1).all():
        return (
            f"all boxes look like corners x1, y1, x2, y2: read as x, y, width, height, {leaves:.0%} of them leave "
            "their image; write x, y, width, height"
        )
    if (np.abs(boxes_xywh[known]) <= 1).all() and extent.any() and (limit > 10).all():
        return "all numbers of the boxes are at most 1; write pixels of the image file, not fractions"
    outside = ((start > limit) | (start + extent < 0)).any(axis=1).mean()
    if outside > 0.5:
        return (
            f"{outside:.0%} of the boxes lie outside their image; write pixels of the image file, not of a resized "
            "one, and give the images that the boxes are for"
        )
    return ""

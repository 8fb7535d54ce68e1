"""Check that the boxes of an annotation or result file are x, y, width, height in pixels of the image files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAVING = 0.1  # a box leaves its image if it ends further outside than this fraction of the image's width or height
OFTEN = 0.25  # boxes are suspected to be corners if at least this fraction of them leaves the image


def boxes_fault(boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int64]) -> str:
    """Explain why the boxes of a file are not xywh in pixels; return an empty string if they look correct.

    The check uses all boxes of the file together, because a single box may be anywhere.

    Args:
        boxes_xywh: float64 ``(D, 4)`` all boxes of the file.
        sizes: int64 ``(D, 2)`` height and width of each box's image; 0 if unknown.
    """
    known = (sizes > 0).all(axis=1)
    start, extent, limit = boxes_xywh[known, :2], boxes_xywh[known, 2:], sizes[known, ::-1].astype(np.float64)
    if not len(limit):
        return ""
    leaves = (start + extent > (1 + LEAVING) * limit).any(axis=1).mean()
    if leaves >= OFTEN and (extent >= start).all() and (extent <= limit + 1).all() and (start >= -1).all():
        return (
            f"all boxes look like corners x1, y1, x2, y2, because {leaves:.0%} of them would leave their image as "
            "x, y, width, height; write x, y, width, height"
        )
    if (np.abs(boxes_xywh[known]) <= 1).all() and extent.any() and (limit > 10).all():
        return "all numbers of the boxes are at most 1; write pixels of the image file, not fractions"
    outside = ((start > limit) | (start + extent < 0)).any(axis=1).mean()
    if outside > 0.5:
        return (
            f"{outside:.0%} of the boxes lie outside their image; write pixels of the image file, not of a resized "
            "copy, and check that the boxes belong to these images"
        )
    return ""

"""Check that the boxes of an annotation or result file are x, y, width, height in pixels of the image files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A box counts as extending beyond its image only if it crosses the right or bottom border by more than this fraction of
# the image's width or height.
LEAVING = 0.1
# If at least this fraction of a file's boxes extends beyond the image, the file may contain corners x1, y1, x2, y2
# instead of x, y, width, height.
OFTEN = 0.25


def boxes_fault(boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int64]) -> str:
    """Explain why the boxes of a file are not xywh in pixels; return an empty string if the boxes look correct.

    All boxes of the file are checked together, because one unusual box does not mean that the format is wrong.

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
            f"all boxes look like corners x1, y1, x2, y2: if they were x, y, width, height, {leaves:.0%} of the boxes "
            "would extend beyond their image; write x, y, width, height"
        )
    if (np.abs(boxes_xywh[known]) <= 1).all() and extent.any() and (limit > 10).all():
        return "all box coordinates are at most 1; write pixels of the image file, not fractions of the image's size"
    outside = ((start > limit) | (start + extent < 0)).any(axis=1).mean()
    if outside > 0.5:
        return (
            f"{outside:.0%} of the boxes lie outside their image; write pixels of the image file, not of a resized "
            "copy, and check that the boxes belong to these images"
        )
    return ""

"""Check COCO segmentations and convert valid segmentations to RLE.

pycocotools only gets checked segmentations, because its C code hangs, crashes or gives wrong masks for malformed input.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.ground_truth import RLE

# Matches the counts of COCO's compressed RLE, a text in which 1 to 7 characters encode each number. If the code of "0"
# is subtracted from a character's code, 6 bits remain. The lower 5 of these bits are 5 binary digits of the number. The
# sixth bit is set if the next character belongs to the same number.
COMPRESSED_COUNTS = re.compile(r"(?:[P-o]{0,6}+[0-O]+)++")
MAX_COORDINATE = 1e5  # px: largest accepted coordinate; pycocotools needs memory in proportion to a polygon's perimeter


def segmentation_fault(segmentation: Any, height: int, width: int) -> str | None:
    """Explain why a COCO segmentation (polygons or RLE) is invalid for an image of this size; return None if valid."""
    if height * width >= 2**31:
        return f"an image of {height} x {width} pixels is too large for a mask"
    if type(segmentation) is dict:
        size = segmentation.get("size")
        if type(size) is not list or size != [height, width] or {*map(type, size)} != {int}:
            return f"its size is not [{height}, {width}], the image's size"
        fault = counts_fault(segmentation.get("counts"), height * width)
        return fault and f"its counts are wrong: {fault}"
    if type(segmentation) is not list or not segmentation:
        return "it contains neither polygons nor RLE"
    for polygon in segmentation:
        if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
            return "a polygon is not a list x, y, x, y, ... of at least 3 points"
        if not all(type(x) in (float, int) and -MAX_COORDINATE <= x <= MAX_COORDINATE for x in polygon):
            return "a polygon has a coordinate that is not a number from -1e5 to 1e5 px"
    return None


def counts_fault(counts: Any, num_pixels: int) -> str | None:
    """Explain why the counts of an RLE are wrong for an image of ``num_pixels`` pixels; return None if correct."""
    if type(counts) is list and all(type(count) is int and 0 <= count < 2**32 for count in counts):
        covered = sum(counts)
    elif type(counts) is str and COMPRESSED_COUNTS.fullmatch(counts):
        covered = int(covered_pixels([counts])[0])
    else:
        return "expected COCO's compressed text or a list of integers"
    return None if covered == num_pixels else "their sum is not height x width"


def covered_pixels(counts: Sequence[str]) -> NDArray[np.int64]:
    """Return the sum of the run lengths of each compressed RLE, int64; -1 if a run length of the RLE is negative.

    Each text in ``counts`` has to match ``COMPRESSED_COUNTS``.
    """
    codes = np.frombuffer("".join(counts).encode(), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((codes & 31) << 5 * place, first)
    runs -= ((codes[last] & 16) >> 4) << 5 * (place[last] + 1)  # two's complement
    starts = np.searchsorted(last, np.cumsum([0, *map(len, counts[:-1])]))
    start = np.repeat(starts, np.diff(starts, append=len(runs)))
    # The first three numbers of a compressed RLE are run lengths. Each later number is the difference between a run
    # length and the run length two positions earlier. So the run lengths at indices 1, 3, 5, ... are the cumulative
    # sums of the numbers at these indices. In the same way, the run lengths at indices 2, 4, 6, ... are the cumulative
    # sums of the numbers at indices 2, 4, 6, ...
    number = np.arange(len(runs)) - start
    for chain in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        total = np.cumsum(runs * chain)
        runs[chain] = (total - total[start])[chain]
    return np.where(np.minimum.reduceat(runs, starts) >= 0, np.add.reduceat(runs, starts), -1)


def compressed_rle(segmentation: Any, height: int, width: int) -> RLE:
    """Convert a valid segmentation to compressed RLE. The size of the image file is ``height`` × ``width`` px.

    Several polygons are merged into their union, as in COCO's API. If the segmentation is RLE, its counts may be a list
    or compressed text.
    """
    if isinstance(segmentation, list):
        coded = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        coded = mask_api.frPyObjects(segmentation, height, width)
    else:
        coded = segmentation
    counts = coded["counts"]
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode()}

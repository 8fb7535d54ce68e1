"""COCO's greedy matching of detections to objects, for boxes and masks, to compute recall.

COCO's evaluator ignores crowd objects, and objects outside the area range: a detection that matches only such an object
is not a false positive. This rule changes precision, but not recall, so these objects are left out here.

Shapes: D detections and G objects of one image, T = 10 IoU thresholds, A area ranges, L limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError

# COCO's evaluator clips IoU thresholds at 1 - 1e-10. The thresholds below are at most 0.95 and need no clipping.
IOU_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
MAX_AREA = 1e5**2


def area_ranges(area_thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Return the area ranges of all, small, medium and large objects. Both bounds of a range are inclusive.

    Args:
        area_thresholds: two areas in px² of the image file; the first separates small from medium objects, the second
            medium from large.

    Returns:
        float64 ``(4, 2)`` lower and upper bounds. An object whose area equals a threshold belongs to two size classes.

    Raises:
        InputError: if the thresholds are not two ascending areas between 0 and 1e10 px².
    """
    if len(area_thresholds) != 2 or not 0 < area_thresholds[0] < area_thresholds[1] < MAX_AREA:
        raise InputError(
            f"area_thresholds is {list(area_thresholds)}: give two ascending areas in px² between 0 and 1e10, "
            "for example 1024 9216"
        )
    small, large = area_thresholds
    return np.array([(0, MAX_AREA), (0, small), (small, large), (large, MAX_AREA)], dtype=np.float64)


def box_iou_xywh(boxes: NDArray[np.float64], gt_boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the IoU of boxes, bit-identical to that of COCO's mask API (same order of operations).

    Args:
        boxes: float64 ``(D, 4)`` xywh, in any unit.
        gt_boxes: float64 ``(G, 4)`` xywh, in the same unit.

    Returns:
        float64 ``(D, G)`` in [0, 1]; 0 if boxes only touch, or if a box has no area.
    """
    # Compute a (G, D) array, because NumPy is fastest if the longer axis, D, is the inner axis.
    x, y, width, height = np.ascontiguousarray(boxes.T)
    gt_x, gt_y, gt_width, gt_height = np.ascontiguousarray(gt_boxes.T)[:, :, None]
    overlap = np.minimum(width + x, gt_width + gt_x)
    overlap -= np.maximum(x, gt_x)
    overlap_height = np.minimum(height + y, gt_height + gt_y)
    overlap_height -= np.maximum(y, gt_y)
    np.maximum(overlap, 0, out=overlap)
    np.maximum(overlap_height, 0, out=overlap_height)
    overlap *= overlap_height
    union = width * height + gt_width * gt_height
    union -= overlap
    # Avoid 0 / 0 for two boxes without area. If the overlap is 0, the IoU is 0 for any divisor.
    union[overlap == 0] = 1
    overlap /= union
    return overlap.T


def ignored_objects(
    gt_areas: NDArray[np.float64], gt_is_crowd: NDArray[np.bool_], ranges: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which objects are ignored in each area range.

    Args:
        gt_areas: float64 ``(G,)``, the ``area`` values of the annotations, px² of the image file.
        gt_is_crowd: bool ``(G,)``.
        ranges: float64 ``(A, 2)``, lower and upper bounds of the area ranges, inclusive, px².

    Returns:
        bool ``(A, G)``.
    """
    return gt_is_crowd | (gt_areas < ranges[:, :1]) | (gt_areas > ranges[:, 1:])


def count_matches(ious: NDArray[np.float64], gt_ignore: NDArray[np.bool_], limits: Sequence[int]) -> NDArray[np.int64]:
    """Count the matched objects of one image with COCO's greedy matching, for boxes or masks.

    Detections are matched in descending order of score. Each detection takes the unmatched object with the highest IoU,
    if the IoU is at or above the threshold. If several objects have this IoU, the detection takes the last of them.
    Later detections do not change the matches of earlier detections, so one pass over the detections gives the counts
    for all limits.

    This pass also gives the counts for all IoU thresholds and area ranges. For each object, an integer of A·T bits says
    for which area ranges and IoU thresholds the object can still be matched. A bit is 1 while the object can still be
    matched.

    Args:
        ious: float64 ``(D, G)``. Detections are in descending order of score. Objects are sorted by category, and
            within a category as in the file.
        gt_ignore: bool ``(A, G)``, true for crowd objects and for objects outside the area range. Ignored objects are
            not matched. A is at most 6, because the bits of an object have to fit into an int64.
        limits: ``(L,)`` numbers of detections kept per image, ascending.

    Returns:
        int64 ``(T, A, L)`` numbers of matched objects.
    """
    num_ranges, num_thresholds = len(gt_ignore), len(IOU_THRESHOLDS)
    num_bits = num_ranges * num_thresholds
    by_object = ious.T  # contiguous in memory, because box_iou_xywh returns the transpose of a (G, D) array
    gt_idxs, det_idxs = np.nonzero(by_object >= IOU_THRESHOLDS[0])
    pair_ious = ious[det_idxs, gt_idxs]
    order = np.lexsort((-gt_idxs, -pair_ious, det_idxs))
    levels = np.searchsorted(IOU_THRESHOLDS, pair_ious[order], side="right")

    # Bit a * T + t belongs to area range a and threshold t.
    each_range = sum(1 << a * num_thresholds for a in range(num_ranges))
    bits_of_level = [((1 << level) - 1) * each_range for level in range(num_thresholds + 1)]
    one_range = (1 << num_thresholds) - 1
    free = [sum(one_range << a * num_thresholds for a, skip in enumerate(column) if not skip) for column in gt_ignore.T]

    everything = (1 << num_bits) - 1
    previous, wanted = -1, everything
    ranks: list[int] = []
    taken: list[int] = []
    for det, gt, level in zip(det_idxs[order].tolist(), gt_idxs[order].tolist(), levels.tolist(), strict=True):
        if det != previous:
            previous, wanted = det, everything
        take = bits_of_level[level] & free[gt] & wanted
        if take:
            free[gt] ^= take
            wanted ^= take
            ranks.append(det)
            taken.append(take)

    matched = (np.array(taken, dtype=np.int64)[:, None] >> np.arange(num_bits)) & 1
    counts = np.zeros((len(taken) + 1, num_bits), dtype=np.int64)
    np.cumsum(matched, axis=0, out=counts[1:])
    # (L, A * T) -> (L, A, T) -> (T, A, L)
    return counts[np.searchsorted(ranks, limits)].reshape(len(limits), num_ranges, num_thresholds).transpose(2, 1, 0)

"""COCO's greedy matching of detections to objects, for boxes and masks, counted for recall.

Ignored objects (crowds, and objects outside the area range) are left out. COCO matches a detection to an ignored object
only if no other object fits. Such a detection is not a false positive. This affects precision but not recall.

Shapes: D detections and G objects of one image, T = 10 IoU thresholds, A area ranges, L limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError

# COCO caps a threshold at 1 - 1e-10, which none of these reaches.
IOU_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
MAX_AREA = 1e5**2


def area_ranges(area_thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Bounds of the areas of all, small, medium and large objects, inclusive on both sides as in COCO.

    Args:
        area_thresholds: largest small and smallest large area, px² of the image file.

    Returns:
        float64 ``(4, 2)`` lower and upper bound. An object exactly on a threshold belongs to both size classes.

    Raises:
        InputError: unless the thresholds are two ascending areas between 0 and 1e10.
    """
    if len(area_thresholds) != 2 or not 0 < area_thresholds[0] < area_thresholds[1] < MAX_AREA:
        raise InputError(
            f"area_thresholds is {list(area_thresholds)}: give two ascending areas in px² between 0 and 1e10, "
            "for example 1024 9216"
        )
    small, large = area_thresholds
    return np.array([(0, MAX_AREA), (0, small), (small, large), (large, MAX_AREA)], dtype=np.float64)


def box_iou_xywh(boxes: NDArray[np.float64], gt_boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes, equal to COCO's mask API to the bit: it follows the order of its operations.

    Args:
        boxes: float64 ``(D, 4)`` xywh, in any unit.
        gt_boxes: float64 ``(G, 4)`` xywh, in the same unit.

    Returns:
        float64 ``(D, G)`` in [0, 1]; 0 where boxes only touch or one of them has no area.
    """
    # Computed as (G, D). D is the longer axis, so it is the inner one for NumPy's loops.
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
    # Avoid 0 / 0 for two boxes without area. Where the overlap is 0, the IoU is 0 for any divisor.
    union[overlap == 0] = 1
    overlap /= union
    return overlap.T


def ignored_objects(
    gt_areas: NDArray[np.float64], gt_is_crowd: NDArray[np.bool_], ranges: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether an object is ignored, for each area range.

    Args:
        gt_areas: float64 ``(G,)`` the annotation's ``area``, px² of the image file.
        gt_is_crowd: bool ``(G,)``.
        ranges: float64 ``(A, 2)`` inclusive bounds, px².

    Returns:
        bool ``(A, G)``.
    """
    return gt_is_crowd | (gt_areas < ranges[:, :1]) | (gt_areas > ranges[:, 1:])


def count_matches(ious: NDArray[np.float64], gt_ignore: NDArray[np.bool_], limits: Sequence[int]) -> NDArray[np.int64]:
    """Count the objects of one image that COCO's greedy matching matches, boxes or masks.

    Detections choose in order of score. Each takes the free object with the highest IoU at or above the threshold, the
    last one among equals. Later detections do not change what earlier ones take, so one pass gives the counts of every
    limit. Whether an object is free depends on the threshold and the area range. One integer per object holds these
    A·T bits. One pass over the pairs with IoU >= 0.5 therefore counts all thresholds and ranges.

    Args:
        ious: float64 ``(D, G)``, detections by descending score; objects in COCO's order (category, then file).
        gt_ignore: bool ``(A, G)``, at most 6 ranges: crowds and objects outside the area range. Their columns of
            ``ious`` are not used.
        limits: ``(L,)`` detections kept, ascending.

    Returns:
        int64 ``(T, A, L)`` matched objects.
    """
    num_ranges, num_thresholds = len(gt_ignore), len(IOU_THRESHOLDS)
    num_bits = num_ranges * num_thresholds
    by_object = ious.T  # contiguous in box_iou_xywh's result
    gt_idxs, det_idxs = np.nonzero(by_object >= IOU_THRESHOLDS[0])
    pair_ious = ious[det_idxs, gt_idxs]
    order = np.lexsort((-gt_idxs, -pair_ious, det_idxs))
    levels = np.searchsorted(IOU_THRESHOLDS, pair_ious[order], side="right")

    # Bit a * T + t stands for area range a and threshold t.
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

"""COCO's class-agnostic average recall: counts matched objects image by image, and computes the AR of a split.

AR is the number of matched objects divided by the number of objects, averaged over ten IoU thresholds. The values are
exactly the means of ``eval["recall"]`` of COCO's evaluator with ``useCats=0``. This module does not import torch,
because scoring a file does not need torch.

Shapes: D detections and G objects of one image, T = 10 IoU thresholds, A = 4 area ranges (all, small, medium, large),
L limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults, float_rows, object_columns
from fpn_lightning.evaluation.matching import box_iou_xywh, count_matches, ignored_objects
from fpn_lightning.ground_truth import RLE, GroundTruth, check_masks
from fpn_lightning.metric_names import AREA_SUFFIXES, recall_key

if TYPE_CHECKING:  # these modules import torch
    from fpn_lightning.mask_structures import MaskProposalsOrig
    from fpn_lightning.structures import ProposalsOrig


class Counts(NamedTuple):
    """Numbers of matched objects and of all objects in one image or several images.

    Attributes:
        matched: int64 ``(T, A, L)`` numbers of objects that are matched by the proposals with the highest scores, for
            each IoU threshold, area range and limit.
        objects: int64 ``(A,)`` numbers of objects in each area range, without crowds.
    """

    matched: NDArray[np.int64]
    objects: NDArray[np.int64]


def check_limits(limits: Sequence[int]) -> tuple[int, ...]:
    """Return the limits (detections kept per image) in ascending order, or raise ``InputError``."""
    if not limits or min(limits) < 1 or len(set(limits)) != len(limits):
        raise InputError(f"limits is {list(limits)}: give one or more different numbers of detections, each at least 1")
    return tuple(sorted(int(limit) for limit in limits))


def count_boxes(
    prediction: ProposalsOrig | FileResults,
    ground_truth: GroundTruth,
    ranges: NDArray[np.float64],
    limits: Sequence[int],
) -> Counts:
    """Count all objects of one image, and the objects matched by box proposals.

    Args:
        prediction: proposals of the image, any order. Proposals with equal scores stay in the given order.
        ground_truth: objects of the image, any order. Matching visits the objects in ascending order of label, as
            COCO's evaluator does. This order decides between objects with equal IoU.
        ranges: float64 ``(A, 2)``, lower and upper bounds of the area ranges; see :func:`area_ranges`.
        limits: ``(L,)`` numbers of proposals kept, ascending.

    Raises:
        InputError: if a list lacks entries or a value is not finite. The message names the image.
    """
    name = f"image {ground_truth.image_id}: "
    boxes = float_rows(prediction.boxes_xywh, name + "boxes_xywh", 4)
    objectness = float_rows(prediction.objectness, name + "objectness")
    gt_boxes = float_rows(ground_truth.boxes_xywh, name + "the objects' boxes_xywh", 4)
    gt_idxs, gt_ignore, num_objects = _counted_objects(ground_truth, ranges)
    if len(boxes) != len(objectness) or len(gt_boxes) != len(ground_truth.areas):
        raise InputError(
            f"{name}the proposals have {len(boxes)} boxes_xywh and {len(objectness)} objectness values, the objects "
            f"have {len(gt_boxes)} boxes_xywh and {len(ground_truth.areas)} areas: give one entry per box in each list"
        )
    best = np.argsort(-objectness, kind="stable")[: limits[-1]]
    return Counts(count_matches(box_iou_xywh(boxes[best], gt_boxes[gt_idxs]), gt_ignore, limits), num_objects)


def count_segments(
    prediction: MaskProposalsOrig | FileResults,
    ground_truth: GroundTruth,
    ranges: NDArray[np.float64],
    limits: Sequence[int],
) -> Counts:
    """Count all objects of one image, and the objects matched by mask proposals (RLE); see :func:`count_boxes`.

    Raises:
        InputError: if objects have no masks, masks and scores differ in number, masks differ in size, or a value is not
            finite.
    """
    check_masks(ground_truth)
    masks, gt_masks, name = prediction.masks, ground_truth.masks, f"image {ground_truth.image_id}: "
    scores = float_rows(prediction.scores, name + "scores")
    gt_idxs, gt_ignore, num_objects = _counted_objects(ground_truth, ranges)
    if len(masks) != len(scores):
        raise InputError(f"{name}{len(masks)} masks and {len(scores)} scores: give one score per mask")
    if len(sizes := {tuple(mask["size"]) for mask in (*masks, *gt_masks)}) > 1:
        # For masks of different sizes, the mask API returns an IoU of -1, and the mask would silently stay unmatched.
        raise InputError(
            f"{name}the masks have different sizes, {sorted(sizes)}: give masks with the height and width of "
            "the image file"
        )
    best = np.argsort(-scores, kind="stable")[: limits[-1]]
    ious = mask_iou([masks[i] for i in best], [gt_masks[i] for i in gt_idxs])
    return Counts(count_matches(ious, gt_ignore, limits), num_objects)


def _counted_objects(
    ground_truth: GroundTruth, ranges: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.int64]]:
    """Select the objects that are evaluated in at least one area range, sorted by label as in COCO.

    Returns:
        ``(G,)`` indices of the selected objects; ``(A, G)`` true if a selected object is ignored in a range; ``(A,)``
        number of objects that are evaluated in each range.
    """
    areas, is_crowd, labels = object_columns(ground_truth)
    gt_ignore = ignored_objects(areas, is_crowd, ranges)
    order = np.argsort(labels, kind="stable")
    idxs = order[~gt_ignore[:, order].all(axis=0)]
    return idxs, gt_ignore[:, idxs], (~gt_ignore).sum(axis=1)


def mask_iou(masks: Sequence[RLE], gt_masks: Sequence[RLE]) -> NDArray[np.float64]:
    """Compute the IoU of masks with COCO's mask API: float64 ``(D, G)``; 0 if a mask is empty."""
    if not masks or not gt_masks:
        return np.zeros((len(masks), len(gt_masks)))
    return np.asarray(mask_api.iou(list(masks), list(gt_masks), [0] * len(gt_masks)), dtype=np.float64)


def recall_values(counts: Counts, limits: Sequence[int], prefix: str = "") -> dict[str, float | None]:
    """Compute the AR metrics from the counts of a split: fractions in [0, 1]; ``None`` without ground truth."""
    matched, objects = counts.matched.mean(axis=0), counts.objects.tolist()
    return {
        prefix + recall_key(limit, suffix): float(matched[a, i] / objects[a]) if objects[a] else None
        for i, limit in enumerate(limits)
        for a, suffix in enumerate(AREA_SUFFIXES)
    }

"""COCO's class-agnostic average recall, exactly: of one image's proposals as counts, and of a split's counts as values.

The numbers are those of COCO's own evaluator with ``useCats=0``, read from ``eval["recall"]``: matched objects over
objects, averaged over ten IoU thresholds. Scoring a file needs no torch, so this module does without.

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

if TYPE_CHECKING:  # they import torch
    from fpn_lightning.mask_structures import MaskProposalsOrig
    from fpn_lightning.structures import ProposalsOrig


class Counts(NamedTuple):
    """The objects of one image, or of several.

    Attributes:
        matched: int64 ``(T, A, L)`` objects that the best proposals match.
        objects: int64 ``(A,)`` objects that count: no crowds, and of a size in the range.
    """

    matched: NDArray[np.int64]
    objects: NDArray[np.int64]


def check_limits(limits: Sequence[int]) -> tuple[int, ...]:
    """Return the limits (detections kept per image) in ascending order, or raise ``InputError``."""
    if not limits or min(limits) < 1 or len(set(limits)) != len(limits):
        raise InputError(f"limits is {list(limits)}: give one or more different numbers of detections, each at least 1")
    return tuple(sorted(int(limit) for limit in limits))


def match_image(
    boxes_xywh: NDArray[np.float64],
    scores: NDArray[np.float64],
    gt_boxes_xywh: NDArray[np.float64],
    gt_ignore: NDArray[np.bool_],
    limits: Sequence[int],
) -> NDArray[np.int64]:
    """Count the objects of one image that its best boxes match; boxes of equal score keep the order given.

    Args:
        boxes_xywh: float64 ``(D, 4)`` pixels of the image file, any number, any order.
        scores: float64 ``(D,)``.
        gt_boxes_xywh: float64 ``(G, 4)`` pixels of the image file.
        gt_ignore: bool ``(A, G)``, see :func:`ignored_objects`.
        limits: ``(L,)`` detections kept, ascending.

    Returns:
        int64 ``(T, A, L)`` matched objects.
    """
    if (scores[1:] > scores[:-1]).any():
        order = np.argsort(-scores, kind="stable")[: limits[-1]]
        boxes_xywh = boxes_xywh[order]
    counted = ~gt_ignore.all(axis=0)
    ious = box_iou_xywh(boxes_xywh[: limits[-1]], gt_boxes_xywh[counted])
    return count_matches(ious, gt_ignore[:, counted], limits)


def count_boxes(
    prediction: ProposalsOrig | FileResults,
    ground_truth: GroundTruth,
    ranges: NDArray[np.float64],
    limits: Sequence[int],
) -> Counts:
    """Count the objects of one image and those that its proposals match.

    Args:
        prediction: proposals of the image, any order.
        ground_truth: its objects, any order. As in COCO they are sorted by label, which decides where IoUs are equal.
        ranges: float64 ``(A, 2)``, see :func:`area_ranges`.
        limits: ``(L,)`` proposals kept, ascending.

    Raises:
        InputError: naming the image, if lengths disagree or a value is not finite.
    """
    name = f"image {ground_truth.image_id}: "
    boxes = float_rows(prediction.boxes_xywh, name + "boxes_xywh", 4)
    objectness = float_rows(prediction.objectness, name + "objectness")
    gt_boxes = float_rows(ground_truth.boxes_xywh, name + "the objects' boxes_xywh", 4)
    areas, is_crowd, labels = object_columns(ground_truth)
    if len(boxes) != len(objectness) or len(gt_boxes) != len(areas):
        raise InputError(
            f"{name}{len(boxes)} boxes_xywh and {len(objectness)} objectness, {len(gt_boxes)} boxes_xywh and "
            f"{len(areas)} areas of objects: give one entry per box to each"
        )
    order = np.argsort(labels, kind="stable")
    gt_ignore = ignored_objects(areas[order], is_crowd[order], ranges)
    matched = match_image(boxes, objectness, gt_boxes[order], gt_ignore, limits)
    return Counts(matched, (~gt_ignore).sum(axis=1))


def count_segments(
    prediction: MaskProposalsOrig | FileResults,
    ground_truth: GroundTruth,
    ranges: NDArray[np.float64],
    limits: Sequence[int],
) -> Counts:
    """Count as :func:`count_boxes`, with masks; they are compared as run lengths.

    Raises:
        InputError: naming the image, if objects have no masks, lengths or image sizes disagree, or a value is not
            finite.
    """
    check_masks(ground_truth)
    masks, gt_masks, name = prediction.masks, ground_truth.masks, f"image {ground_truth.image_id}: "
    scores = float_rows(prediction.scores, name + "scores")
    areas, is_crowd, labels = object_columns(ground_truth)
    if len(masks) != len(scores):
        raise InputError(f"{name}{len(masks)} masks and {len(scores)} scores: give one score per mask")
    if len(sizes := {tuple(mask["size"]) for mask in (*masks, *gt_masks)}) > 1:
        # The mask API would give an IoU of -1, which would count as 0.
        raise InputError(f"{name}masks of different sizes, {sorted(sizes)}: give masks of the image file")
    order = np.argsort(labels, kind="stable")
    gt_ignore = ignored_objects(areas[order], is_crowd[order], ranges)
    counted = ~gt_ignore.all(axis=0)
    best = np.argsort(-scores, kind="stable")[: limits[-1]]
    ious = mask_iou([masks[i] for i in best], [gt_masks[i] for i in order[counted]])
    return Counts(count_matches(ious, gt_ignore[:, counted], limits), (~gt_ignore).sum(axis=1))


def mask_iou(masks: Sequence[RLE], gt_masks: Sequence[RLE]) -> NDArray[np.float64]:
    """IoU of masks as COCO's mask API computes it: float64 ``(D, G)``; 0 where one is empty.

    Args:
        masks: D masks.
        gt_masks: G masks of the same image.
    """
    if not masks or not gt_masks:
        return np.zeros((len(masks), len(gt_masks)))
    return np.asarray(mask_api.iou(list(masks), list(gt_masks), [0] * len(gt_masks)), dtype=np.float64)


def recall_values(counts: Counts, limits: Sequence[int], prefix: str = "") -> dict[str, float | None]:
    """Return fractions in [0, 1] by the metric's name; ``None`` for a size class without ground truth.

    Args:
        counts: sums over a split.
        limits: ``(L,)`` the limits of the counts.
        prefix: what the names begin with.
    """
    matched, objects = counts.matched.mean(axis=0), counts.objects.tolist()
    return {
        prefix + recall_key(limit, suffix): float(matched[a, i] / objects[a]) if objects[a] else None
        for i, limit in enumerate(limits)
        for a, suffix in enumerate(AREA_SUFFIXES)
    }

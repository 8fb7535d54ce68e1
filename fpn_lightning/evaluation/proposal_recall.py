"""COCO's class-agnostic average recall of proposals, exactly (FPN §5.1, Table 1).

The numbers are those of COCO's own evaluator with ``useCats=0``, read from ``eval["recall"]``: matched objects over
objects, averaged over ten IoU thresholds.

Shapes: D detections and G objects of one image, T = 10 IoU thresholds, A = 4 area ranges (all, small, medium, large),
L limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults, float_rows, object_columns
from fpn_lightning.evaluation.matching import IOU_THRESHOLDS, area_ranges, box_iou_xywh, count_matches, ignored_objects
from fpn_lightning.metric_names import AREA_SUFFIXES, recall_key
from fpn_lightning.structures import GroundTruth, ProposalsOrig


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


class Recall(Metric):
    """Base of box recall and mask recall: counts over a split, and the metrics made of them.

    The state is sums of counts: memory does not grow with the number of images, and the counts of processes add up.

    Args:
        limits: proposals kept per image, each giving ``AR<limit>`` and ``AR<limit>_s``, ``_m``, ``_l``.
        area_thresholds: between small and medium and between medium and large objects, px² of the image file.

    Attributes:
        prefix: start of the name of every metric.
        matched: int64 ``(T, A, L)`` number of matched objects.
        gt_counts: int64 ``(A,)`` number of objects that are not ignored.
        num_images: int64 scalar, number of images.

    Raises:
        InputError: limits or thresholds that cannot be used.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    prefix = ""
    matched: Tensor
    gt_counts: Tensor
    num_images: Tensor

    def __init__(
        self, limits: Sequence[int] = (10, 30, 100, 1000), area_thresholds: Sequence[float] = (32**2, 96**2)
    ) -> None:
        super().__init__()
        self.limits = check_limits(limits)
        self.area_ranges = area_ranges(area_thresholds)
        shape = (len(IOU_THRESHOLDS), len(self.area_ranges), len(self.limits))
        self.add_state("matched", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("gt_counts", torch.zeros(len(self.area_ranges), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add_counts(self, matched: NDArray[np.int64], gt_ignore: NDArray[np.bool_]) -> None:
        """Add one image.

        Args:
            matched: int64 ``(T, A, L)`` number of matched objects, see :func:`count_matches`.
            gt_ignore: bool ``(A, G)``, see :func:`ignored_objects`.
        """
        device = self.matched.device
        # Not in place: after an evaluation of its own, Lightning's inference mode has made the zeros that reset() left.
        self.matched = self.matched + torch.from_numpy(matched).to(device)
        self.gt_counts = self.gt_counts + torch.from_numpy((~gt_ignore).sum(axis=1)).to(device)
        self.num_images = self.num_images + 1

    def compute(self) -> dict[str, float | None]:
        """Return fractions in [0, 1] by the metric's name; ``None`` for a size class without ground truth."""
        matched = self.matched.cpu().numpy().mean(axis=0)
        counts = self.gt_counts.cpu().tolist()
        return {
            self.prefix + recall_key(limit, suffix): float(matched[a, i] / counts[a]) if counts[a] else None
            for i, limit in enumerate(self.limits)
            for a, suffix in enumerate(AREA_SUFFIXES)
        }


class ProposalRecall(Recall):
    """Average recall of proposals over a split, equal to COCO's evaluator with ``useCats=0`` (FPN §5.1)."""

    def update(self, prediction: ProposalsOrig | FileResults, ground_truth: GroundTruth) -> None:
        """Add one image. An image without proposals must be added too: its objects stay in the denominator.

        Args:
            prediction: proposals of the image, any order.
            ground_truth: its objects. COCO sorts them by label, which decides between equal IoUs.

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
        gt_ignore = ignored_objects(areas[order], is_crowd[order], self.area_ranges)
        self.add_counts(match_image(boxes, objectness, gt_boxes[order], gt_ignore, self.limits), gt_ignore)

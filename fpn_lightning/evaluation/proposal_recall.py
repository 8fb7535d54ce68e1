"""COCO's class-agnostic average recall of proposals, exactly (FPN §5.1, Table 1).

The numbers are those of COCO's own evaluator with ``useCats=0``, read from ``eval["recall"]``: matched objects over
objects, averaged over ten IoU thresholds.

Shapes: D detections and G objects of one image, T = 10 IoU thresholds, A = 4 area ranges (all, small, medium, large),
L limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import float_rows
from fpn_lightning.evaluation.matching import IOU_THRESHOLDS, area_ranges, box_iou_xywh, count_matches, ignored_objects

AREA_SUFFIXES = ("", "_s", "_m", "_l")


def check_limits(limits: Sequence[int]) -> tuple[int, ...]:
    """Return the limits (detections kept per image) in ascending order, or raise ``InputError``."""
    if not limits or min(limits) < 1 or len(set(limits)) != len(limits):
        raise InputError(f"limits is {list(limits)}: give one or more different numbers of detections, each at least 1")
    return tuple(sorted(int(limit) for limit in limits))


def recall_key(limit: int, suffix: str = "") -> str:
    """Name of a recall column as the paper writes it: ``AR100``, ``AR1k``, ``AR1k_s``."""
    number = f"{limit // 1000}k" if limit % 1000 == 0 else str(limit)
    return f"AR{number}{suffix}"


def match_image(
    boxes_xywh: NDArray[np.float64],
    scores: NDArray[np.float64],
    gt_boxes_xywh: NDArray[np.float64],
    gt_ignore: NDArray[np.bool_],
    limits: Sequence[int],
) -> NDArray[np.int64]:
    """Count the objects of one image found by the best-scored boxes; equal scores keep the order given.

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
    """What the recall of boxes and the recall of masks share: counts over a split, and the columns made of them.

    Keeps sums of counts only: memory does not grow with the number of images, and processes are joined by addition.

    Args:
        limits: proposals kept per image, each giving ``AR<limit>`` and ``AR<limit>_s``, ``_m``, ``_l``.
        area_thresholds: between small and medium and between medium and large objects, px² of the image file.

    Attributes:
        prefix: what stands before the name of every column.
        matched: int64 ``(T, A, L)`` objects found.
        gt_counts: int64 ``(A,)`` objects that count.
        num_images: int64 scalar, images seen.

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
            matched: int64 ``(T, A, L)`` objects found, see :func:`count_matches`.
            gt_ignore: bool ``(A, G)``, see :func:`ignored_objects`.
        """
        device = self.matched.device
        self.matched += torch.from_numpy(matched).to(device)
        self.gt_counts += torch.from_numpy((~gt_ignore).sum(axis=1)).to(device)
        self.num_images += 1

    def compute(self) -> dict[str, float | None]:
        """Return fractions in [0, 1] by column name; ``None`` for a size class without ground truth."""
        found = self.matched.cpu().numpy().mean(axis=0)
        counts = self.gt_counts.cpu().tolist()
        return {
            self.prefix + recall_key(limit, suffix): float(found[a, i] / counts[a]) if counts[a] else None
            for i, limit in enumerate(self.limits)
            for a, suffix in enumerate(AREA_SUFFIXES)
        }


class ProposalRecall(Recall):
    """Average recall of proposals over a split, equal to COCO's evaluator with ``useCats=0`` (FPN §5.1)."""

    def update(
        self,
        boxes_xywh: Tensor | NDArray[Any],
        scores: Tensor | NDArray[Any],
        gt_boxes_xywh: Tensor | NDArray[Any],
        gt_areas: Tensor | NDArray[Any],
        gt_is_crowd: Tensor | NDArray[Any],
        gt_labels: Tensor | NDArray[Any] | None = None,
    ) -> None:
        """Add one image. An image without proposals must be added too: its objects stay in the denominator.

        Args:
            boxes_xywh: ``(D, 4)`` proposals in pixels of the image file, as a result file holds them.
            scores: ``(D,)`` higher is better; logits or probabilities.
            gt_boxes_xywh: ``(G, 4)`` objects as in the annotation file, crowds too, in the file's order.
            gt_areas: ``(G,)`` the annotation's ``area``, px².
            gt_is_crowd: ``(G,)``.
            gt_labels: ``(G,)`` classes in the order of their category ids. COCO looks at objects class by class,
                which decides between equal IoUs; without labels the order given stands.

        Raises:
            InputError: lengths that disagree, or a value that is not finite.
        """
        boxes, det_scores = float_rows(boxes_xywh, "boxes_xywh", 4), float_rows(scores, "scores")
        gt_boxes, areas = float_rows(gt_boxes_xywh, "gt_boxes_xywh", 4), float_rows(gt_areas, "gt_areas")
        is_crowd = float_rows(gt_is_crowd, "gt_is_crowd") != 0
        labels = np.zeros(len(gt_boxes)) if gt_labels is None else float_rows(gt_labels, "gt_labels")
        if len(boxes) != len(det_scores) or not len(gt_boxes) == len(areas) == len(is_crowd) == len(labels):
            raise InputError(
                f"one image has {len(boxes)} boxes_xywh and {len(det_scores)} scores, {len(gt_boxes)} gt_boxes_xywh, "
                f"{len(areas)} gt_areas, {len(is_crowd)} gt_is_crowd and {len(labels)} gt_labels: "
                "give one entry per box to each"
            )
        if gt_labels is not None:
            order = np.argsort(labels, kind="stable")
            gt_boxes, areas, is_crowd = gt_boxes[order], areas[order], is_crowd[order]
        gt_ignore = ignored_objects(areas, is_crowd, self.area_ranges)
        self.add_counts(match_image(boxes, det_scores, gt_boxes, gt_ignore, self.limits), gt_ignore)

"""COCO's class-agnostic average recall as metrics that are updated image by image (FPN §5.1, Table 1; §6, Table 6).

Shapes: T = 10 IoU thresholds, A = 4 area ranges (all, small, medium, large), L limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from fpn_lightning.evaluation.matching import IOU_THRESHOLDS, area_ranges
from fpn_lightning.evaluation.recall import Counts, check_limits, count_boxes, count_segments, recall_values
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.structures import ProposalsOrig


class Recall(Metric):
    """Base class of box recall and mask recall: sums the numbers of objects and of matched objects over a split.

    Memory does not grow with the number of images. The counts of several processes are summed.

    Args:
        limits: numbers of proposals kept per image. Each limit adds the metrics ``AR<limit>``,
            ``AR<limit>_s``, ``AR<limit>_m`` and ``AR<limit>_l``.
        area_thresholds: two areas in px² of the image file; the first separates small from medium objects, the second
            medium from large.

    Attributes:
        prefix: start of the name of every metric.
        matched: int64 ``(T, A, L)`` numbers of matched objects, for each IoU threshold, area range and limit.
        gt_counts: int64 ``(A,)`` numbers of objects in each area range, without crowds.
        num_images: int64 scalar, number of images that were added.

    Raises:
        InputError: if limits or thresholds are invalid.
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

    def add(self, counts: Counts) -> None:
        """Add the counts of one image."""
        device = self.matched.device
        # Do not add in place: zeros that reset() created in inference mode cannot be modified outside that mode.
        self.matched = self.matched + torch.from_numpy(counts.matched).to(device)
        self.gt_counts = self.gt_counts + torch.from_numpy(counts.objects).to(device)
        self.num_images = self.num_images + 1

    def compute(self) -> dict[str, float | None]:
        """Return fractions in [0, 1] by metric name; ``None`` for a size class without ground truth."""
        counts = Counts(self.matched.cpu().numpy(), self.gt_counts.cpu().numpy())
        return recall_values(counts, self.limits, self.prefix)


class ProposalRecall(Recall):
    """Average recall of box proposals over a split, equal to that of COCO's evaluator with ``useCats=0`` (FPN §5.1)."""

    def update(self, prediction: ProposalsOrig, ground_truth: GroundTruth) -> None:
        """Add one image; see :func:`count_boxes`.

        Images without proposals must be added as well, because their objects lower the recall.
        """
        self.add(count_boxes(prediction, ground_truth, self.area_ranges, self.limits))


class SegmentRecall(Recall):
    """Average recall of segment proposals over a split: ``segm_AR1k``, ``segm_AR1k_s`` and so on (FPN §6).

    The size class of an object depends on its ``area`` in the annotation file.
    """

    prefix = "segm_"

    def update(self, prediction: MaskProposalsOrig, ground_truth: GroundTruth) -> None:
        """Add one image; see :func:`count_segments`.

        Images without proposals must be added as well, because their objects lower the recall.
        """
        self.add(count_segments(prediction, ground_truth, self.area_ranges, self.limits))

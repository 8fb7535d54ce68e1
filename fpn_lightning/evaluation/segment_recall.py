"""COCO's class-agnostic average recall of segments, exactly (FPN §6, Table 6).

The numbers are those of COCO's own evaluator with ``iouType="segm"`` and ``useCats=0``, read from ``eval["recall"]``.
Masks are compared as run lengths and are not kept: the state is sums of counts.

Shapes: D proposals and G objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults, float_rows, object_columns
from fpn_lightning.evaluation.matching import count_matches, ignored_objects
from fpn_lightning.evaluation.proposal_recall import Recall
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.structures import RLE, GroundTruth, check_masks


def mask_iou(masks: Sequence[RLE], gt_masks: Sequence[RLE]) -> NDArray[np.float64]:
    """IoU of masks as COCO's mask API computes it: float64 ``(D, G)``; 0 where one is empty.

    Args:
        masks: D masks.
        gt_masks: G masks of the same image.
    """
    if not masks or not gt_masks:
        return np.zeros((len(masks), len(gt_masks)))
    return np.asarray(mask_api.iou(list(masks), list(gt_masks), [0] * len(gt_masks)), dtype=np.float64)


class SegmentRecall(Recall):
    """Average recall of segment proposals over a split: ``segm_AR1k``, ``segm_AR1k_s`` and so on.

    The sizes of objects are their masks' areas, as the annotation file gives them.
    """

    prefix = "segm_"

    def update(self, prediction: MaskProposalsOrig | FileResults, ground_truth: GroundTruth) -> None:
        """Add one image. An image without proposals must be added too: its objects stay in the denominator.

        Args:
            prediction: proposals of the image, any order. Equal scores keep the order given.
            ground_truth: its objects with masks. COCO sorts them by label, which decides between equal IoUs.

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
        gt_ignore = ignored_objects(areas[order], is_crowd[order], self.area_ranges)
        counted = ~gt_ignore.all(axis=0)
        best = np.argsort(-scores, kind="stable")[: self.limits[-1]]
        ious = mask_iou([masks[i] for i in best], [gt_masks[i] for i in order[counted]])
        self.add_counts(count_matches(ious, gt_ignore[:, counted], self.limits), gt_ignore)

"""COCO's class-agnostic average recall of segments, exactly (FPN §6, Table 6).

The numbers are those of COCO's own evaluator with ``iouType="segm"`` and ``useCats=0``, read from ``eval["recall"]``.
Masks are compared as run lengths, image by image, and forgotten.

Shapes: D proposals and G objects of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import float_rows
from fpn_lightning.evaluation.matching import count_matches, ignored_objects
from fpn_lightning.evaluation.proposal_recall import Recall

Masks = Sequence[Mapping[str, Any]]


def mask_iou(masks: Masks, gt_masks: Masks) -> NDArray[np.float64]:
    """IoU of masks as COCO's mask API computes it: float64 ``(D, G)``; 0 where one is empty.

    Args:
        masks: D compressed RLEs.
        gt_masks: G compressed RLEs of the same image.
    """
    if not masks or not gt_masks:
        return np.zeros((len(masks), len(gt_masks)))
    return np.asarray(mask_api.iou(list(masks), list(gt_masks), [0] * len(gt_masks)), dtype=np.float64)


class SegmentRecall(Recall):
    """Average recall of segment proposals over a split: ``segm_AR1k``, ``segm_AR1k_s`` and so on.

    The sizes of objects are their masks' areas, as the annotation file gives them.
    """

    prefix = "segm_"

    def update(
        self,
        masks: Masks,
        scores: Tensor | NDArray[Any],
        gt_masks: Masks,
        gt_areas: Tensor | NDArray[Any],
        gt_is_crowd: Tensor | NDArray[Any],
        gt_labels: Tensor | NDArray[Any] | None = None,
    ) -> None:
        """Add one image. An image without proposals must be added too: its objects stay in the denominator.

        Args:
            masks: D compressed RLEs of the image file's size, any order.
            scores: ``(D,)`` higher is better; logits or probabilities. Equal scores keep the order given.
            gt_masks: G compressed RLEs, crowds too, in the order of the annotation file.
            gt_areas: ``(G,)`` the annotation's ``area``, px².
            gt_is_crowd: ``(G,)``.
            gt_labels: ``(G,)`` classes in the order of their category ids. COCO looks at objects class by class,
                which decides between equal IoUs; without labels the order given stands.

        Raises:
            InputError: lengths or image sizes that disagree, or a value that is not finite.
        """
        det_scores, areas = float_rows(scores, "scores"), float_rows(gt_areas, "gt_areas")
        is_crowd = float_rows(gt_is_crowd, "gt_is_crowd") != 0
        labels = np.zeros(len(gt_masks)) if gt_labels is None else float_rows(gt_labels, "gt_labels")
        if len(masks) != len(det_scores) or not len(gt_masks) == len(areas) == len(is_crowd) == len(labels):
            raise InputError(
                f"one image has {len(masks)} masks and {len(det_scores)} scores, {len(gt_masks)} gt_masks, "
                f"{len(areas)} gt_areas, {len(is_crowd)} gt_is_crowd and {len(labels)} gt_labels: "
                "give one entry per mask to each"
            )
        if len(sizes := {tuple(mask["size"]) for mask in (*masks, *gt_masks)}) > 1:
            # The mask API would give an IoU of -1, which no threshold tells from 0.
            raise InputError(f"one image has masks of different sizes, {sorted(sizes)}: give masks of the image file")
        order = np.argsort(labels, kind="stable")
        gt_ignore = ignored_objects(areas[order], is_crowd[order], self.area_ranges)
        counted = ~gt_ignore.all(axis=0)
        best = np.argsort(-det_scores, kind="stable")[: self.limits[-1]]
        ious = mask_iou([masks[i] for i in best], [gt_masks[i] for i in order[counted]])
        self.add_counts(count_matches(ious, gt_ignore[:, counted], self.limits), gt_ignore)

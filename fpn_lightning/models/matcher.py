"""Matching of reference boxes (anchors or proposals) with ground truth by IoU (Faster R-CNN §3.1.2, Fast R-CNN §2.3).

Shape shorthand: G ground-truth boxes, B reference boxes, C ground-truth boxes that are compared at a time.

An image whose shorter side is 800 px has about 200,000 anchors and may have hundreds of objects. The matcher computes
the IoUs of a few objects at a time with all reference boxes, so that memory does not grow with the number of objects.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from fpn_lightning.errors import InputError

PAIRS_AT_A_TIME = 2**21  # computing the IoUs of this number of pairs of boxes takes 64 MiB


class Matcher:
    """Labels each reference box positive (1), negative (0) or ignored (-1).

    Args:
        positive_iou: a reference box is positive if its highest IoU with an object is at least ``positive_iou`` (RPN:
            0.7, RoI heads: 0.5).
        negative_iou: a reference box is negative if its highest IoU with an object is below ``negative_iou``. Reference
            boxes between the two thresholds are ignored.
        keep_best: if true, the reference box that has the highest IoU with an object is positive even if this IoU is
            below ``positive_iou``. In a tie, all reference boxes with the highest IoU are positive (Faster R-CNN
            §3.1.2, rule (i)).

    Raises:
        InputError: unless ``0 <= negative_iou <= positive_iou <= 1``.
    """

    def __init__(self, positive_iou: float = 0.7, negative_iou: float = 0.3, keep_best: bool = True) -> None:
        if not 0 <= negative_iou <= positive_iou <= 1:
            raise InputError(
                f"model.detector: negative_iou {negative_iou} and positive_iou {positive_iou} of a head have to "
                "satisfy 0 <= negative_iou <= positive_iou <= 1."
            )
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.keep_best = keep_best

    def __call__(self, boxes: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Match the reference boxes (anchors or proposals) of one image with its ground-truth boxes.

        Args:
            boxes: ``(G, 4)`` xyxy, the ground truth; G may be 0.
            references: ``(B, 4)`` xyxy, of the dtype of ``boxes``.

        Returns:
            ``matched_idxs`` int64 ``(B,)``, index of the object with the highest IoU; in a tie, the first object; 0 if
            G is 0. ``match_labels`` int8 ``(B,)``: 1 for positive, 0 for negative and -1 for ignored boxes.
        """
        matched_idxs = torch.zeros(len(references), dtype=torch.int64, device=references.device)
        if len(boxes) == 0:
            return matched_idxs, matched_idxs.to(torch.int8)
        best_iou = references.new_zeros(len(references))
        is_best = torch.zeros_like(matched_idxs, dtype=torch.bool)
        at_a_time = max(1, PAIRS_AT_A_TIME // max(1, len(references)))
        for first in range(0, len(boxes), at_a_time):
            iou = box_iou(boxes[first : first + at_a_time], references)  # (C, B)
            highest, idxs = iou.max(dim=0)
            matched_idxs = torch.where(highest > best_iou, first + idxs, matched_idxs)
            best_iou = torch.maximum(best_iou, highest)
            if self.keep_best:
                best_of_object = iou.amax(dim=1, keepdim=True)
                # If an object overlaps no reference box, its best IoU is 0. Boxes with IoU 0 must not become positive.
                is_best |= ((iou == best_of_object) & (best_of_object > 0)).any(dim=0)
        match_labels = torch.full_like(matched_idxs, -1, dtype=torch.int8)
        match_labels.masked_fill_(best_iou < self.negative_iou, 0)
        match_labels.masked_fill_((best_iou >= self.positive_iou) | is_best, 1)
        return matched_idxs, match_labels

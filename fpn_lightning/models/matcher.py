"""Matching of anchors or proposals with ground truth by IoU (Faster R-CNN §3.1.2, Fast R-CNN §2.3).

Both are called reference boxes here.

Shape shorthand: G ground-truth boxes, B reference boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fpn_lightning.errors import InputError


class Matcher:
    """Labels each reference box positive (1), negative (0) or ignored (-1).

    Args:
        positive_iou: a reference with at least this IoU is positive (0.7 in the RPN, 0.5 in the box head).
        negative_iou: a reference with a lower IoU is negative. References between the two are ignored.
        keep_best: also label as positive, for each object, the references with the highest IoU (Faster R-CNN §3.1.2,
            rule (i)), so that every object has one; all of several equal ones are positive.

    Raises:
        InputError: unless ``0 <= negative_iou <= positive_iou <= 1``.
    """

    def __init__(self, positive_iou: float = 0.7, negative_iou: float = 0.3, keep_best: bool = True) -> None:
        if not 0 <= negative_iou <= positive_iou <= 1:
            raise InputError(
                f"negative_iou {negative_iou} and positive_iou {positive_iou} have to be ordered and in [0, 1]."
            )
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.keep_best = keep_best

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Match the references of one image.

        Args:
            iou: ``(G, B)`` in [0, 1]; G may be 0.

        Returns:
            ``matched_idxs`` int64 ``(B,)`` in [0, G), the ground truth with the highest IoU (0 if G is 0), and
            ``match_labels`` int8 ``(B,)`` in {1, 0, -1}.
        """
        if iou.shape[0] == 0:
            empty = torch.zeros(iou.shape[1], dtype=torch.int64, device=iou.device)
            return empty, empty.to(torch.int8)
        best_iou, matched_idxs = iou.max(dim=0)
        match_labels = torch.full_like(matched_idxs, -1, dtype=torch.int8)
        match_labels[best_iou < self.negative_iou] = 0
        match_labels[best_iou >= self.positive_iou] = 1
        if self.keep_best:
            best_of_object = iou.max(dim=1, keepdim=True).values
            # An object that overlaps no reference (best IoU 0) must not make all references positive.
            is_best = ((iou == best_of_object) & (best_of_object > 0)).any(dim=0)
            match_labels[is_best] = 1
        return matched_idxs, match_labels

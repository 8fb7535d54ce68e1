"""Non-maximum suppression (NMS) of proposals, separately for each pyramid level, on a CPU and on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms


def nms_per_level(boxes: Tensor, scores: Tensor, levels: Tensor, nms_thresh: float) -> Tensor:
    """Apply NMS to the boxes of each level separately.

    Args:
        boxes: float ``(B, 4)`` xyxy, network-input pixels.
        scores: float ``(B,)``.
        levels: int64 ``(B,)``, the pyramid level of each box.
        nms_thresh: IoU of two boxes of one level above which the box with the lower score is removed.

    Returns:
        int64, indices of the kept boxes, highest score first. Boxes of equal score are in the order of their indices.
    """
    # For more than 1,000 boxes, batched_nms returns boxes of equal score in any order. To put them into the order of
    # their indices, sort by index, and then by score with a stable sort.
    keep = batched_nms(boxes.double(), scores.double(), levels, nms_thresh).sort().values
    return keep[scores[keep].argsort(descending=True, stable=True)]


def nms_in_one_call(boxes: Tensor, scores: Tensor, levels: Tensor, max_coordinate: Tensor, nms_thresh: float) -> Tensor:
    """Compute the result of :func:`nms_per_level` by one call of NMS; coordinates are in [0, ``max_coordinate``]."""
    # Shift the boxes of each level by a different offset, so that boxes of different levels do not overlap. Add the
    # offsets in float64, because float32 would round the boxes; MPS has no float64.
    dtype = boxes.dtype if boxes.device.type == "mps" else torch.float64
    apart = boxes.to(dtype) + (levels * (max_coordinate + 1))[:, None]
    return nms(apart, scores.to(dtype), nms_thresh)

"""Box regression: boxes as offsets from anchors or proposals (R-CNN App. C; Faster R-CNN §3.1.2 eq. 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Upper limit of decoded dw and dh. This limit keeps exp() finite: a side grows at most by the factor 1000 / 16.
MAX_LOG_SCALE = math.log(1000.0 / 16)


class BoxCoder:
    """Encodes boxes as offsets (dx, dy, dw, dh) from reference boxes (anchors or proposals), and decodes the offsets.

    Args:
        weights: factors on (dx, dy, dw, dh); (1, 1, 1, 1) in the RPN, (10, 10, 5, 5) in the RoI heads.
    """

    def __init__(self, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        self.weights = weights

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """Compute the offsets ``(R, 4)`` from reference boxes to boxes, multiplied by ``weights``.

        Args:
            references: ``(R, 4)`` xyxy with positive sides.
            boxes: ``(R, 4)`` xyxy with positive sides.
        """
        ref_size = references[:, 2:] - references[:, :2]
        size = boxes[:, 2:] - boxes[:, :2]
        shift = ((boxes[:, :2] + size / 2) - (references[:, :2] + ref_size / 2)) / ref_size
        offsets = torch.cat((shift, torch.log(size / ref_size)), dim=1)
        return torch.stack([column * weight for column, weight in zip(offsets.T, self.weights, strict=True)], dim=1)

    def decode(self, references: Tensor, deltas: Tensor) -> Tensor:
        """Apply offsets to reference boxes; the inverse of :meth:`encode`.

        Args:
            references: ``(R, 4)`` xyxy.
            deltas: ``(R, 4)``, or ``(R, K * 4)`` for K classes.

        Returns:
            xyxy boxes in the shape of ``deltas``.
        """
        ref_size = (references[:, 2:] - references[:, :2])[:, None]  # (R, 1, 2)
        ref_centre = references[:, None, :2] + ref_size / 2
        # (R, K * 4) -> (R, K, 4); K is computed because reshape() cannot infer -1 if R is 0
        columns = deltas.reshape(deltas.shape[0], deltas.shape[1] // 4, 4).unbind(dim=2)
        dx, dy, dw, dh = (column / weight for column, weight in zip(columns, self.weights, strict=True))
        centre = ref_centre + torch.stack((dx, dy), dim=2) * ref_size
        size = ref_size * torch.stack((dw, dh), dim=2).clamp(max=MAX_LOG_SCALE).exp()
        return torch.cat((centre - size / 2, centre + size / 2), dim=2).reshape(deltas.shape)


def clip_boxes(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes ``(..., 4)`` xyxy to an image of ``size`` (height, width), int64 ``(2,)`` on the same device."""
    limits = size.flip(0).repeat(2).to(boxes.dtype)  # width, height, width, height
    return boxes.clamp(min=0).minimum(limits)

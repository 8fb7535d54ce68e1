"""Segment proposals, in pixels of the network input and of the image file.

Units are those of :mod:`fpn_lightning.structures`. Shape shorthand: P proposals of one image, m the side of a mask in
cells.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fpn_lightning.ground_truth import RLE
from fpn_lightning.structures import _TensorStruct


@dataclass
class MaskProposals(_TensorStruct):
    """Segment proposals of one image, best first.

    Attributes:
        mask_logits: float32 ``(P, m, m)`` over the window, rows from top to bottom.
        windows: float32 ``(P, 4)`` xyxy squares, network-input pixels; may extend outside the image.
        scores: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` the pyramid level k that gave the proposal.
    """

    mask_logits: Tensor
    windows: Tensor
    scores: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return self.windows.shape[0]


@dataclass
class MaskProposalsOrig(_TensorStruct):
    """Segment proposals of one image in pixels of its file, best first, on the CPU; ``predict`` returns them.

    Attributes:
        image_id: COCO image id; for a folder of images 1..n by sorted file name.
        masks: P masks as large as the image file; some may be empty.
        scores: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` the pyramid level k that gave the proposal.
    """

    image_id: int
    masks: list[RLE]
    scores: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.masks)

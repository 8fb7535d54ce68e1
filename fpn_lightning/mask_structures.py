"""Segment proposals of one image, in pixels of the network input or of the image file.

Shape shorthand: P proposals of one image, m the side of a mask in cells.
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
        mask_logits: float32 ``(P, m, m)`` mask logits in each window, rows from top to bottom.
        windows: float32 ``(P, 4)`` xyxy squares, network-input pixels; they may extend outside the image.
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
    """Segment proposals of one image in pixels of the image file, best first, on the CPU; ``predict`` returns them.

    Attributes:
        image_id: COCO image id, or 1..n in the order of file names for a folder of images.
        masks: P masks of the size of the image file; a mask may be empty.
        scores: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` the pyramid level k that gave the proposal.
    """

    image_id: int
    masks: list[RLE]
    scores: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.masks)

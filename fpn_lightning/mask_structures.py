"""Segment proposals of one image, in pixels of the network input or of the image file.

In shapes, P is the number of proposals of one image, and m is the height and width of a mask.
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
        mask_logits: float32 ``(P, m, m)`` mask logits in each window; row 0 is the top row.
        windows: float32 ``(P, 4)`` xyxy squares, network-input pixels. A window may extend beyond the image.
        scores: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` pyramid level k that produced each proposal.
    """

    mask_logits: Tensor
    windows: Tensor
    scores: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return self.windows.shape[0]


@dataclass
class MaskProposalsOrig(_TensorStruct):
    """Segment proposals of one image as ``predict`` returns them: in pixels of the image file, best first, on the CPU.

    Attributes:
        image_id: COCO image id; for a folder of images, the number of the file by sorted name, from 1.
        masks: P masks of the size of the image file; a mask may be empty.
        scores: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` pyramid level k that produced each proposal.
    """

    image_id: int
    masks: list[RLE]
    scores: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.masks)

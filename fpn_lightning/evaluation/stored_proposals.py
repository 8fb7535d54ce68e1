"""A proposal store as something to score: read image by image, so that its size does not matter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_convert

from fpn_lightning.data.proposals.store import ProposalStore
from fpn_lightning.evaluation.arrays import FileProposals


class StoredResults:
    """The proposals of a store in the form that result files are scored in.

    Args:
        folder: ``<run>/proposals/<split>``.
        annotation_file: the split's annotations.

    Raises:
        InputError: no complete store, or one made from another annotation file.
    """

    def __init__(self, folder: Path, annotation_file: Path) -> None:
        self.store = ProposalStore(folder)
        with annotation_file.open("rb") as file:
            self.store.check_fingerprint(hashlib.file_digest(file, "sha256").hexdigest())

    def of(self, image_id: int) -> FileProposals:
        """The proposals of one image."""
        stored = self.store.read(image_id)
        boxes = box_convert(torch.from_numpy(stored.boxes_orig.astype(np.float64)), "xyxy", "xywh")
        return FileProposals(boxes.numpy(), stored.objectness.astype(np.float64))

"""A proposal store as something to score: read image by image, so that its size does not matter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.proposals.store import ProposalStore


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

    def of(self, image_id: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Boxes ``(P, 4)`` xywh, pixels of the image file, and objectness ``(P,)`` of one image."""
        stored = self.store.read(image_id)
        boxes = stored.boxes_orig.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return boxes, stored.objectness.astype(np.float64)

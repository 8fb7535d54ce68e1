"""Results and images that are small enough to count pixels in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fpn_lightning.structures import ProposalsOrig


def proposals_orig(boxes: Sequence[Sequence[float]], levels: Sequence[int]) -> ProposalsOrig:
    """Proposals with the given xyxy boxes in pixels of the image file, best first."""
    tensor = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return ProposalsOrig(1, tensor, -torch.arange(float(len(tensor))), torch.tensor(levels, dtype=torch.int64))


def coloured_pixels(picture: np.ndarray, colour: Sequence[int]) -> tuple[int, int, int, int]:
    """First column and row, last column and row of the pixels that have exactly one colour."""
    rows, columns = np.nonzero((picture == np.asarray(colour)).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())

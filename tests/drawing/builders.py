"""Results and images that are small enough to count pixels in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.structures import ProposalsOrig


def proposals_orig(boxes: Sequence[Sequence[float]], levels: Sequence[int]) -> ProposalsOrig:
    """Proposals with the given xyxy boxes in pixels of the image file, best first."""
    tensor = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return ProposalsOrig(1, tensor, -torch.arange(float(len(tensor))), torch.tensor(levels, dtype=torch.int64))


def objects_orig(boxes: Sequence[Sequence[float]], labels: Sequence[int] = ()) -> GroundTruth:
    """Objects with the given xyxy boxes in pixels of the image file; their labels are 0 if none are given."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    boxes_xywh = np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2]))
    count = len(corners)
    labels = np.asarray(labels or [0] * count, dtype=np.int64)
    return GroundTruth(1, boxes_xywh, boxes_xywh[:, 2:].prod(axis=1), np.zeros(count, dtype=np.bool_), labels)


def coloured_pixels(picture: np.ndarray, colour: Sequence[int]) -> tuple[int, int, int, int]:
    """First column and row, last column and row of the pixels that have exactly one colour."""
    rows, columns = np.nonzero((picture == np.asarray(colour)).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())

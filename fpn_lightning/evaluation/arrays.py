"""Checks predictions and ground truth before they are evaluated, and converts them to float64 arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError
from fpn_lightning.ground_truth import RLE, GroundTruth

if TYPE_CHECKING:  # torch is slow to import, and the scoring of files does not need torch
    from torch import Tensor


@dataclass(frozen=True)
class FileResults:
    """Predictions of one image or of a whole result file.

    Boxes are xywh as in the file, because a conversion to xyxy would round the boxes.

    Attributes:
        boxes_xywh: float64 ``(D, 4)`` pixels of the image file, any order; not used if masks are scored.
        scores: float64 ``(D,)`` logits or probabilities; higher is better.
        labels: int64 ``(D,)`` class indices, starting at 0; not used for class-agnostic recall.
        masks: D masks with the height and width of the image file; empty if boxes are scored.
        areas: float64 ``(D,)`` px², which decide the size classes of the predictions; if empty, the areas are computed
            from the boxes or masks.
    """

    boxes_xywh: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    masks: list[RLE] = field(default_factory=list)
    areas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def objectness(self) -> NDArray[np.float64]:
        """Another name for ``scores``, so that code for ``ProposalsOrig`` also works with this class."""
        return self.scores


def float_rows(values: Tensor | NDArray[Any], name: str, width: int | None = None) -> NDArray[np.float64]:
    """Convert values to a float64 array of shape ``(n,)`` or ``(n, width)``.

    Args:
        values: array or tensor of any real dtype, on any device.
        name: name of the values in error messages.
        width: length of the second dimension; ``None`` for a one-dimensional array.

    Raises:
        InputError: if the shape is wrong or a value is not finite.
    """
    # Move the tensor to the CPU before double(), because MPS has no float64. Call double() before numpy(), because
    # NumPy has no bfloat16.
    array = values.detach().cpu().double().numpy() if hasattr(values, "detach") else np.asarray(values, np.float64)
    if array.size == 0:
        return array.reshape((0,) if width is None else (0, width))
    if array.shape[1:] != (() if width is None else (width,)):
        raise InputError(f"{name} has shape {array.shape}: give shape {'(n,)' if width is None else f'(n, {width})'}")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InputError(f"{name} contains {array[row].tolist()} in row {row}: give finite numbers")
    return array


def object_columns(
    ground_truth: GroundTruth,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return areas, crowd flags and labels of the G objects of an image, each ``(G,)``.

    Raises:
        InputError: if the three arrays differ in length or a value is not finite. The message names the image.
    """
    name = f"image {ground_truth.image_id}: the objects' "
    areas, labels = float_rows(ground_truth.areas, name + "areas"), float_rows(ground_truth.labels, name + "labels")
    is_crowd = float_rows(ground_truth.is_crowd, name + "is_crowd") != 0
    if not len(areas) == len(is_crowd) == len(labels):
        raise InputError(
            f"{name}lists differ in length: {len(areas)} areas, {len(is_crowd)} is_crowd, {len(labels)} labels. Give "
            "one entry per object in each list."
        )
    return areas, is_crowd, labels

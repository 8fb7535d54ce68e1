"""The annotated objects of an image, with boxes and areas as in the annotation file. This module imports no torch."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError


class RLE(TypedDict):
    """A mask in COCO's compressed format: run lengths in column-major order, as text."""

    size: list[int]
    """Height and width of the image file."""
    counts: str
    """Run lengths in COCO's compressed format."""


@dataclass(frozen=True)
class GroundTruth:
    """All G annotated objects of one image, including crowd regions, in the order of the annotation file.

    Metrics and pictures use these objects. The arrays stay on the CPU when a batch is moved to a device.

    Attributes:
        image_id: COCO image id.
        boxes_xywh: float64 ``(G, 4)`` x, y, width, height in pixels of the image file.
        areas: float64 ``(G,)`` the annotation's ``area``, px² of the image file.
        is_crowd: bool ``(G,)`` whether each object is a crowd region.
        labels: int64 ``(G,)`` in [0, K) for K classes, or category ids if a result file is scored.
        annotation_ids: int64 ``(G,)`` COCO annotation ids; may be empty.
        masks: G masks in pixels of the image file; empty if masks were not loaded.
    """

    image_id: int
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    labels: NDArray[np.int64]
    annotation_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    masks: list[RLE] = field(default_factory=list)

    @property
    def boxes_orig(self) -> NDArray[np.float64]:
        """float64 ``(G, 4)`` xyxy, pixels of the image file."""
        top_left, size = np.split(np.asarray(self.boxes_xywh, np.float64), 2, axis=1)
        return np.hstack((top_left, top_left + size))


class Annotated(Protocol):
    """The objects of an image: a ``GroundTruth`` or ``Targets``."""

    @property
    def labels(self) -> Sized:
        """One label for each object."""

    @property
    def masks(self) -> list[RLE]:
        """One mask for each object; empty if masks were not loaded."""


def check_masks(objects: Annotated) -> None:
    """Raise InputError if the masks of an image's objects were not loaded."""
    if len(objects.masks) != len(objects.labels):
        raise InputError("Mask proposals need the masks of the objects: set data.load_masks to true.")

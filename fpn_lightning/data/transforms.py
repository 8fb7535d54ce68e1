"""Resizing and flipping: one scale per image, and the same geometry for pixels, ground truth and proposals.

albumentations moves pixels and boxes in training. It is told what to do and draws nothing itself: what happens to an
image is a function of (seed, epoch, image id), so it does not depend on workers, processes or resuming. Ground truth
for evaluation never passes it: :meth:`Geometry.map_boxes` is plain float64 arithmetic.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

# albumentations asks the network for its newest version while it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError

SizeRounding = Literal["nearest", "floor"]
Size = tuple[int, int]
Pixels = NDArray[np.uint8]
# Keeps the numbers drawn here apart from those of the samplers, which start from the same seed.
RANDOM_DOMAIN = 1
LEAST_SIDE = 1e-3  # px; float32 coordinates of a few thousand pixels do not tell less apart


@dataclass(frozen=True)
class Geometry:
    """How one image file becomes a network input: resized to ``size``, then mirrored or not.

    Attributes:
        size_orig: height and width of the image file.
        size: height and width of the network input, without padding.
        flipped: whether it is mirrored left to right after resizing.
    """

    size_orig: Size
    size: Size
    flipped: bool = False

    def map_boxes(self, boxes_orig: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes ``(B, 4)`` xyxy in pixels of the image file to float64 network-input pixels, not clipped."""
        (height, width), (height_orig, width_orig) = self.size, self.size_orig
        boxes = np.asarray(boxes_orig, dtype=np.float64) * ([width / width_orig, height / height_orig] * 2)
        if self.flipped:
            boxes = np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)
        return boxes

    def clip_boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of boxes ``(B, 4)`` xyxy, network-input pixels, that lies inside the network input."""
        height, width = self.size
        return np.clip(boxes, 0, [width, height, width, height])


def scaled_size(size: Size, short_side: int, max_side: int, rounding: SizeRounding = "nearest") -> Size:
    """Height and width after scaling by ``min(short_side / shorter, max_side / longer)``; at least one pixel.

    One scale for both limits: limiting one side after the other would round twice or scale twice.

    Args:
        size: height and width.
        short_side: wanted length of the shorter side (paper: 800).
        max_side: most the longer side may get (1333 for 800 in the published implementations).
        rounding: ``nearest`` as in detectron2, ``floor`` as in torchvision.
    """
    scale = min(short_side / min(size), max_side / max(size))
    half = 0.5 if rounding == "nearest" else 0.0
    height, width = (max(1, math.floor(side * scale + half)) for side in size)
    return height, width


def large_enough(sides: NDArray[np.float64], min_box_size: float) -> NDArray[np.bool_]:
    """Whether boxes with these widths and heights ``(B, 2)``, network-input pixels, can be trained on.

    One rule for what is trained on and for what is counted as left out.
    """
    # Rounding in float64 must not drop a box of exactly the least size.
    return np.all(sides >= max(min_box_size - 1e-6, LEAST_SIDE), axis=1)


@dataclass(frozen=True)
class ResizeAndFlip:
    """The paper's only augmentation: resizing to a shorter side of 800 px, and a horizontal flip in training.

    Attributes:
        short_sides: shorter sides in pixels; training draws one per image, evaluation uses the last.
        max_side: most the longer side may get.
        rounding: see :func:`scaled_size`.
        flip_probability: in [0, 1].
        min_box_size: training boxes narrower or lower than this, in network-input pixels, are dropped.
        seed: non-negative.

    Raises:
        InputError: a value out of range, by its configuration key.
    """

    short_sides: tuple[int, ...] = (800,)
    max_side: int = 1333
    rounding: SizeRounding = "nearest"
    flip_probability: float = 0.5
    min_box_size: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules: list[tuple[str, object, bool, str]] = [
            ("short_side", list(self.short_sides), min(self.short_sides, default=0) >= 1, "at least 1 px"),
            ("max_side", self.max_side, self.max_side >= 1, "at least 1 px"),
            ("size_rounding", self.rounding, self.rounding in ("nearest", "floor"), "nearest or floor"),
            ("flip_probability", self.flip_probability, 0 <= self.flip_probability <= 1, "from 0 to 1"),
            ("min_box_size", self.min_box_size, self.min_box_size >= 0, "at least 0 px"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        ]
        for key, value, right, wanted in rules:
            if not right:
                raise InputError(f"data.{key} is {value}; it has to be {wanted}")

    def evaluation_geometry(self, size_orig: Size) -> Geometry:
        """Resizing to the last of ``short_sides``, no flip."""
        return Geometry(size_orig, scaled_size(size_orig, self.short_sides[-1], self.max_side, self.rounding))

    def training_geometry(self, size_orig: Size, image_id: int, epoch: int) -> Geometry:
        """What (seed, epoch, image id) say about this image; ``image_id`` and ``epoch`` are not negative."""
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(RANDOM_DOMAIN, epoch, image_id)))
        # Both numbers are always drawn, so that one option does not change what the other gives.
        flipped = bool(random.random() < self.flip_probability)
        short_side = self.short_sides[int(random.integers(len(self.short_sides)))]
        return Geometry(size_orig, scaled_size(size_orig, short_side, self.max_side, self.rounding), flipped)

    def augment(
        self, pixels: Pixels, boxes_orig: NDArray[np.float64], geometry: Geometry
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.int64]]:
        """Resize, flip, clip and filter with albumentations (boxes through float32: about 1e-5 px off).

        Args:
            pixels: uint8 ``(H, W, 3)``, the image file.
            boxes_orig: float64 ``(B, 4)`` xyxy, pixels of the image file; may be inverted, empty or outside.
            geometry: what to do.

        Returns:
            ``(pixels, boxes, kept)``: uint8 ``(H', W', 3)``; float32 ``(B', 4)`` xyxy, network-input pixels, inside
            the image; int64 ``(B',)`` ascending rows of ``boxes_orig``, by which labels, areas and masks follow.
        """
        # Chosen before, in float64: albumentations rounds, and would keep or drop boxes close to the least size.
        _, rows = self._usable(boxes_orig, geometry)
        out = _pipeline(geometry.size, geometry.flipped)(image=pixels, bboxes=boxes_orig[rows], rows=rows)
        boxes = np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4)
        # albumentations hands integers back as floats.
        return out["image"], boxes, np.asarray(out["rows"]).reshape(-1).astype(np.int64)

    def augment_plain(
        self, pixels: Pixels, boxes_orig: NDArray[np.float64], geometry: Geometry
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.int64]]:
        """The same as :meth:`augment` in NumPy and OpenCV alone; evaluation uses it."""
        height, width = geometry.size
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        if geometry.flipped:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        boxes, rows = self._usable(boxes_orig, geometry)
        return pixels, boxes.astype(np.float32), rows

    def _usable(
        self, boxes_orig: NDArray[np.float64], geometry: Geometry
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The clipped boxes that are large enough, network-input pixels, and their rows."""
        boxes = geometry.clip_boxes(geometry.map_boxes(boxes_orig))
        rows = np.flatnonzero(large_enough(boxes[:, 2:] - boxes[:, :2], self.min_box_size))
        return boxes[rows], rows


@lru_cache(maxsize=1024)
def _pipeline(size: Size, flipped: bool) -> A.Compose:
    # Cached: building one takes as long as resizing an image, and a data set has few sizes.
    steps: list[A.BasicTransform] = [A.Resize(*size, interpolation=cv2.INTER_LINEAR, p=1.0)]
    if flipped:
        steps.append(A.HorizontalFlip(p=1.0))
    boxes = A.BboxParams("pascal_voc", label_fields=["rows"], clip=True, filter_invalid_bboxes=True)
    return A.Compose(steps, bbox_params=boxes)

"""Cropping, resizing and flipping: what is drawn for an image, and pixels and boxes that follow it.

What happens to an image is a function of (seed, epoch, image id), so it does not depend on workers, processes or
resuming. It is drawn once, as a :class:`~fpn_lightning.geometry.Geometry`. albumentations moves the pixels in training
and draws nothing itself; boxes are mapped by the geometry in float64.
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
from fpn_lightning.geometry import Geometry, Size

SizeRounding = Literal["nearest", "floor"]
Pixels = NDArray[np.uint8]
# Keeps the numbers drawn here apart from those of the samplers, which start from the same seed.
RANDOM_DOMAIN = 1
LEAST_SIDE = 1e-3  # px; float32 coordinates of a few thousand pixels do not tell less apart


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
    """The paper's augmentation: resizing to a shorter side of 800 px, and a horizontal flip in training.

    A random crop can be added, which the paper does not have: what is left of the image is then resized and flipped as
    the whole would be.

    Attributes:
        short_sides: shorter sides in pixels; training draws one per image, evaluation uses the last.
        max_side: most the longer side may get.
        rounding: see :func:`scaled_size`.
        flip_probability: in [0, 1].
        min_box_size: training boxes narrower or lower than this, in network-input pixels, are dropped.
        seed: non-negative.
        random_crop: training cuts a part out of each image whose height and width are at least this fraction of the
            image's, each drawn by itself; in (0, 1], None for the whole image.

    Raises:
        InputError: a value out of range, by its configuration key.
    """

    short_sides: tuple[int, ...] = (800,)
    max_side: int = 1333
    rounding: SizeRounding = "nearest"
    flip_probability: float = 0.5
    min_box_size: float = 1.0
    seed: int = 0
    random_crop: float | None = None

    def __post_init__(self) -> None:
        crop = self.random_crop
        rules: list[tuple[str, object, bool, str]] = [
            ("short_side", list(self.short_sides), min(self.short_sides, default=0) >= 1, "at least 1 px"),
            ("max_side", self.max_side, self.max_side >= 1, "at least 1 px"),
            ("size_rounding", self.rounding, self.rounding in ("nearest", "floor"), "nearest or floor"),
            ("flip_probability", self.flip_probability, 0 <= self.flip_probability <= 1, "from 0 to 1"),
            ("min_box_size", self.min_box_size, self.min_box_size >= 0, "at least 0 px"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
            ("random_crop", crop, crop is None or 0 < crop <= 1, "above 0 and at most 1, or null"),
        ]
        for key, value, right, wanted in rules:
            if not right:
                raise InputError(f"data.{key} is {value}; it has to be {wanted}")

    def evaluation_geometry(self, size_orig: Size) -> Geometry:
        """Resizing to the last of ``short_sides``, no flip, no crop."""
        return Geometry(size_orig, scaled_size(size_orig, self.short_sides[-1], self.max_side, self.rounding))

    def training_geometry(self, size_orig: Size, image_id: int, epoch: int) -> Geometry:
        """What (seed, epoch, image id) say about this image; ``image_id`` and ``epoch`` are not negative."""
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(RANDOM_DOMAIN, epoch, image_id)))
        # Both numbers are always drawn, so that one option does not change what the other gives.
        flipped = bool(random.random() < self.flip_probability)
        short_side = self.short_sides[int(random.integers(len(self.short_sides)))]
        window, seen = None, size_orig
        if self.random_crop is not None:  # drawn last, so that flips and scales are those without it
            (top, bottom), (left, right) = (_part(random, side, self.random_crop) for side in size_orig)
            window, seen = (left, top, right, bottom), (bottom - top, right - left)
        return Geometry(size_orig, scaled_size(seen, short_side, self.max_side, self.rounding), flipped, window)


def _part(random: np.random.Generator, length: int, least: float) -> tuple[int, int]:
    """Start and end of a part of ``length`` pixels that is at least the fraction ``least`` long, both uniform."""
    part = int(random.integers(max(1, math.ceil(least * length)), length, endpoint=True))
    start = int(random.integers(length - part, endpoint=True))
    return start, start + part


def usable_boxes(
    boxes_orig: NDArray[np.float64], geometry: Geometry, min_box_size: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes of an image file as the network sees them: mapped, clipped, and left out where next to nothing remains.

    Args:
        boxes_orig: float64 ``(B, 4)`` xyxy, pixels of the image file; may be inverted, empty or outside.
        geometry: how the image becomes the network input.
        min_box_size: least width and height in network-input pixels, see :func:`large_enough`.

    Returns:
        ``(boxes, kept)``: float32 ``(B', 4)`` xyxy, network-input pixels, inside the image; int64 ``(B',)`` ascending
        rows of ``boxes_orig``, by which labels, scores and masks follow.
    """
    boxes = geometry.clip_to_network(geometry.to_network(boxes_orig))
    kept = np.flatnonzero(large_enough(boxes[:, 2:] - boxes[:, :2], min_box_size))
    return boxes[kept].astype(np.float32), kept


def augment(pixels: Pixels, geometry: Geometry) -> Pixels:
    """Make the network input of training: uint8 ``(H, W, 3)`` of the image file to ``(H', W', 3)``."""
    augmented: Pixels = _pipeline(geometry.size, geometry.flipped)(image=geometry.crop(pixels))["image"]
    return augmented


def resize(pixels: Pixels, geometry: Geometry) -> Pixels:
    """The same pixels as :func:`augment` by OpenCV and NumPy alone; evaluation uses it."""
    height, width = geometry.size
    resized = cv2.resize(geometry.crop(pixels), (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flipped else pixels


@lru_cache(maxsize=1024)
def _pipeline(size: Size, flipped: bool) -> A.Compose:
    # Cached: building one takes as long as resizing an image, and a data set has few sizes. It would have too many
    # windows, so a crop is a slice.
    steps: list[A.BasicTransform] = [A.Resize(*size, interpolation=cv2.INTER_LINEAR, p=1.0)]
    if flipped:
        steps.append(A.HorizontalFlip(p=1.0))
    return A.Compose(steps)

"""Cropping, resizing and flipping.

Augmentation is a function of (seed, epoch, image id), so it does not depend on workers, processes or resuming. The
random choices for an image are stored as one :class:`~fpn_lightning.geometry.Geometry`, which also maps the image's
boxes, in float64. In training, albumentations transforms the pixels as this geometry says, and draws no random numbers.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

# If this environment variable is not set, importing albumentations looks for a newer version on the Internet.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry, Size

SizeRounding = Literal["nearest", "floor"]
Pixels = NDArray[np.uint8]
# First part of the spawn key of NumPy's SeedSequence for augmentation. samplers.py uses the same seed with another
# first part.
RANDOM_DOMAIN = 1
LEAST_SIDE = 1e-3  # px: shortest usable side of a box; about float32's precision at coordinates of a few thousand px


def scaled_size(size: Size, short_side: int, max_side: int, rounding: SizeRounding = "nearest") -> Size:
    """Return height and width after scaling by ``min(short_side / shorter, max_side / longer)``; at least one pixel.

    One scale satisfies both ``short_side`` and ``max_side``, so height and width are rounded only once.

    Args:
        size: height and width.
        short_side: target length of the shorter side (paper: 800).
        max_side: limit of the longer side (1333 in the published implementations, with a ``short_side`` of 800).
        rounding: ``nearest`` as in detectron2, ``floor`` as in torchvision.
    """
    scale = min(short_side / min(size), max_side / max(size))
    half = 0.5 if rounding == "nearest" else 0.0
    height, width = (max(1, math.floor(side * scale + half)) for side in size)
    return height, width


def large_enough(sides: NDArray[np.float64], min_box_size: float) -> NDArray[np.bool_]:
    """Return bool ``(B,)``: whether boxes with sides ``(B, 2)``, in network-input pixels, are large enough."""
    # 1e-6 px are subtracted so that a float64 rounding error does not drop a box of exactly ``min_box_size``.
    return np.all(sides >= max(min_box_size - 1e-6, LEAST_SIDE), axis=1)


@dataclass(frozen=True)
class ResizeAndFlip:
    """The paper's augmentation: resizing to a shorter side of 800 px, and a horizontal flip in training.

    A random crop, which the paper does not use, can precede the resizing.

    Attributes:
        short_sides: possible lengths of the shorter side after resizing, in pixels. Training draws one length per
            image and epoch; evaluation uses the last length.
        max_side: limit of the longer side, in pixels.
        rounding: see :func:`scaled_size`.
        flip_probability: in [0, 1].
        min_box_size: training boxes narrower or lower than this, in network-input pixels, are dropped.
        seed: non-negative.
        random_crop: smallest fraction, in (0, 1], of an image's height and width that a random training crop keeps.
            Height and width of the crop are drawn independently. None: no crop.

    Raises:
        InputError: a value is out of range; the message names its configuration key.
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
        """Return the geometry of an evaluated image: resized to the last of ``short_sides``, without flip or crop."""
        return Geometry(size_orig, scaled_size(size_orig, self.short_sides[-1], self.max_side, self.rounding))

    def training_geometry(self, size_orig: Size, image_id: int, epoch: int) -> Geometry:
        """Draw the augmentation of an image from (seed, epoch, image id); epoch and image id must not be negative."""
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(RANDOM_DOMAIN, epoch, image_id)))
        # Always draw a flip and a scale, so that an option for one does not change the random numbers of the other.
        flipped = bool(random.random() < self.flip_probability)
        short_side = self.short_sides[int(random.integers(len(self.short_sides)))]
        window, seen = None, size_orig
        if self.random_crop is not None:  # drawn last, so that flip and scale are the same with and without a crop
            (top, bottom), (left, right) = (_part(random, side, self.random_crop) for side in size_orig)
            window, seen = (left, top, right, bottom), (bottom - top, right - left)
        return Geometry(size_orig, scaled_size(seen, short_side, self.max_side, self.rounding), flipped, window)


def _part(random: np.random.Generator, length: int, least: float) -> tuple[int, int]:
    """Draw a random interval of a side of ``length`` pixels, and return its start and end.

    The length of the interval is uniform between ``least * length`` and ``length``. The start of the interval is
    uniform over all positions at which the interval fits.
    """
    part = int(random.integers(max(1, math.ceil(least * length)), length, endpoint=True))
    start = int(random.integers(length - part, endpoint=True))
    return start, start + part


def usable_boxes(
    boxes_orig: NDArray[np.float64], geometry: Geometry, min_box_size: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Map boxes of an image file to the network input, clip them to the image, and leave out boxes that are too small.

    Args:
        boxes_orig: float64 ``(B, 4)`` xyxy, pixels of the image file; may be inverted, empty or outside the image.
        geometry: how the image file becomes the network input.
        min_box_size: least width and height of a box after clipping, in network-input pixels.

    Returns:
        ``(boxes, kept)``. ``boxes`` is float32 ``(B', 4)`` xyxy, network-input pixels, inside the image. ``kept`` is
        int64 ``(B',)``: the ascending indices of these boxes in ``boxes_orig``, to select their labels, scores and
        masks.
    """
    boxes = geometry.clip_to_network(geometry.to_network(boxes_orig))
    kept = np.flatnonzero(large_enough(boxes[:, 2:] - boxes[:, :2], min_box_size))
    return boxes[kept].astype(np.float32), kept


def augment(pixels: Pixels, geometry: Geometry) -> Pixels:
    """Crop, resize and flip the pixels of an image file for training: uint8 ``(H, W, 3)`` to ``(H', W', 3)``."""
    augmented: Pixels = _pipeline(geometry.size, geometry.flipped)(image=geometry.crop(pixels))["image"]
    return augmented


def resize(pixels: Pixels, geometry: Geometry) -> Pixels:
    """Crop, resize and flip without albumentations. The resulting pixels equal those of :func:`augment`."""
    height, width = geometry.size
    resized = cv2.resize(geometry.crop(pixels), (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flipped else pixels


@lru_cache(maxsize=1024)
def _pipeline(size: Size, flipped: bool) -> A.Compose:
    # Pipelines are cached, because building a pipeline takes as long as resizing an image. Cropping is not a step of
    # the pipeline, because a pipeline for each different crop would not fit into the cache.
    steps: list[A.BasicTransform] = [A.Resize(*size, interpolation=cv2.INTER_LINEAR, p=1.0)]
    if flipped:
        steps.append(A.HorizontalFlip(p=1.0))
    return A.Compose(steps)

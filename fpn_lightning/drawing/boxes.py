"""Boxes on an image: proposals in the colour of their pyramid level, ground truth thin and dashed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
# Okabe and Ito's colours, which people with any colour vision tell apart; level 2 takes the first.
LEVEL_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
LINE = 2  # px of the picture
DASH = 4


def level_colour(level: int) -> Colour:
    """RGB of pyramid level k, the same in every picture; levels repeat their colours from the eighth on."""
    return LEVEL_COLOURS[(level - 2) % len(LEVEL_COLOURS)]


def drawing_scale(size: tuple[int, int], least: int = 480, most: int = 960) -> float:
    """By how much an image is enlarged for drawing: small ones by a whole number, large ones down to ``most``.

    Args:
        size: height and width, px.
        least: the longer side of a picture is at least so long, so that lines stay thin against what they mark.
        most: and at most so long.
    """
    longer = max(size)
    return float(-(-least // longer)) if longer < least else min(1.0, most / longer)


def enlarge(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Scale uint8 ``(H, W, 3)``: enlarged pixels stay squares, shrunk ones are averaged."""
    if scale == 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), dtype=np.uint8)


def draw_boxes(
    picture: Image.Image, boxes_orig: NDArray[np.float64], colours: Sequence[Colour], scale: float = 1.0
) -> None:
    """Draw the outlines of boxes, the first box on top.

    Args:
        picture: RGB, the image enlarged by ``scale``; drawn on.
        boxes_orig: ``(B, 4)`` xyxy, pixels of the image file.
        colours: one for each box.
        scale: see :func:`drawing_scale`.
    """
    draw = ImageDraw.Draw(picture)
    for box, colour in reversed(list(zip(boxes_orig, colours, strict=True))):
        draw.rectangle(_corners(box, scale, picture.size), outline=colour, width=LINE)


def draw_ground_truth(picture: Image.Image, boxes_orig: NDArray[np.float64], scale: float = 1.0) -> None:
    """Draw boxes one pixel thin in dashes of white and black, which show on any image.

    Args:
        picture: RGB, the image enlarged by ``scale``; drawn on.
        boxes_orig: ``(B, 4)`` xyxy, pixels of the image file.
        scale: see :func:`drawing_scale`.
    """
    for box in boxes_orig:
        x1, y1, x2, y2 = _corners(box, scale, picture.size)
        for x in range(x1, x2 + 1):
            for y in (y1, y2):
                picture.putpixel((x, y), _dash(x - x1))
        for y in range(y1, y2 + 1):
            for x in (x1, x2):
                picture.putpixel((x, y), _dash(y - y1))


def _dash(along: int) -> Colour:
    return (255, 255, 255) if along // DASH % 2 == 0 else (0, 0, 0)


def _corners(box: NDArray[np.float64], scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel column and row of a box, inside a picture of ``size`` (width, height)."""
    width, height = size
    x1, y1, x2, y2 = (float(value) * scale for value in box)
    left, top = min(max(round(x1), 0), width - 1), min(max(round(y1), 0), height - 1)
    # Without a "+1" in widths, a box ends before the pixel that x2 and y2 name.
    return left, top, min(max(round(x2) - 1, left), width - 1), min(max(round(y2) - 1, top), height - 1)

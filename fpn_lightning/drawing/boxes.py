"""Boxes on an image: proposals in the colour of their pyramid level, ground truth thin and dashed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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
LONGEST = 960  # px: longer side of a drawn image, at most
DASH = 4
STRIP = 14  # px: height of a name
FONT = ImageFont.load_default(12)  # it has no × and no –


def level_colour(level: int) -> Colour:
    """RGB of pyramid level k, the same in every picture; levels repeat their colours from the eighth on."""
    return cycled_colour(level - 2)


def cycled_colour(number: int) -> Colour:
    """RGB of the n-th of things whose number is not bounded, such as categories."""
    return LEVEL_COLOURS[number % len(LEVEL_COLOURS)]


def drawing_scale(size: tuple[int, int], most: int = LONGEST) -> float:
    """By how much an image is enlarged for drawing: small ones by a whole number, large ones down to ``most``.

    Args:
        size: height and width, px.
        most: the longer side of a picture is at most so long. It is at least half of that, so that lines stay thin
            against what they mark.
    """
    longer, least = max(size), most // 2
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


def draw_names(
    picture: Image.Image,
    boxes_orig: NDArray[np.float64],
    names: Sequence[str],
    colours: Sequence[Colour],
    scale: float = 1.0,
) -> None:
    """Write a name on a strip at the upper left corner of each box: above it, or inside where there is no room.

    Args:
        picture: RGB, the image enlarged by ``scale``; drawn on.
        boxes_orig: ``(B, 4)`` xyxy, pixels of the image file.
        names: one for each box.
        colours: of the strips.
        scale: see :func:`drawing_scale`.
    """
    draw = ImageDraw.Draw(picture)
    for box, name, colour in reversed(list(zip(boxes_orig, names, colours, strict=True))):
        left, top, _, _ = _corners(box, scale, picture.size)
        width = round(FONT.getlength(name)) + 4
        left = max(0, min(left, picture.width - width))
        top = top - STRIP if top >= STRIP else top
        draw.rectangle((left, top, left + width - 1, top + STRIP - 1), fill=colour)
        draw.text((left + 2, top), name, fill="black", font=FONT)


def _dash(along: int) -> Colour:
    return (255, 255, 255) if along // DASH % 2 == 0 else (0, 0, 0)


def _corners(box: NDArray[np.float64], scale: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel column and row of a box, inside a picture of ``size`` (width, height)."""
    width, height = size
    x1, y1, x2, y2 = (float(value) * scale for value in box)
    left, top = min(max(round(x1), 0), width - 1), min(max(round(y1), 0), height - 1)
    # Without a "+1" in widths, a box ends before the pixel that x2 and y2 name.
    return left, top, min(max(round(x2) - 1, left), width - 1), min(max(round(y2) - 1, top), height - 1)

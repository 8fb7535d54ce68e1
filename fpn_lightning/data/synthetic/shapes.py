"""Shapes of the generated images: eleven categories of objects, and the parts that clutter shares with them.

Each drawing is a function of a pen and a random generator. A drawing uses a unit frame: x points right, y points down,
and both range from about -1 to 1. The pen converts the coordinates of a drawing to pixels of the canvas. A detector
cannot recognise a category by a single part, because wheels, eyes, windows, plain annuli and single bars are also drawn
as clutter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Points = NDArray[np.float64]

_SHIFT = 4  # number of fractional bits of OpenCV's fixed-point coordinates


@dataclass(frozen=True)
class Inks:
    """The colours of one drawing, RGB in [0, 255]. ``main`` contrasts with the canvas under the drawing."""

    main: Colour
    accent: Colour
    dark: Colour
    light: Colour


@dataclass
class Pen:
    """Fills shapes on the canvas and writes the object's number to the same pixels of ``owners``.

    Attributes:
        canvas: uint8 ``(S, S, 3)`` RGB, drawn on in place.
        owners: uint8 ``(S, S)``, number of the object that was drawn last at each pixel; 0 for clutter and background.
        matrix: float64 ``(2, 3)``, maps the unit frame to canvas pixels.
        owner: number of the object that the pen draws; 0 for clutter.
        inks: colours of the drawing.
    """

    canvas: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    matrix: NDArray[np.float64]
    owner: int
    inks: Inks

    def fill(self, colour: Colour, *contours: Points) -> None:
        """Fill contours, each float64 ``(n, 2)`` x, y of the unit frame. The overlap of two contours stays unfilled."""
        matrix = self.matrix * (1 << _SHIFT)
        linear, offset = matrix[:, :2].T, matrix[:, 2]
        fixed = [np.rint(contour @ linear + offset).astype(np.int32) for contour in contours]
        cv2.fillPoly(self.canvas, fixed, colour, shift=_SHIFT)
        cv2.fillPoly(self.owners, fixed, self.owner, shift=_SHIFT)


Drawing = Callable[[Pen, np.random.Generator], None]


@dataclass(frozen=True)
class Category:
    """A category: its COCO fields, drawing function, largest rotation (degrees), and whether it may be mirrored."""

    id: int
    name: str
    supercategory: str
    draw: Drawing
    tilt: float
    mirrored: bool = True


def polygon(*points: tuple[float, float]) -> Points:
    """Return the corners of a polygon as float64 ``(n, 2)``."""
    return np.array(points, dtype=np.float64)


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Points:
    """Return the corners of an axis-aligned rectangle."""
    return polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360, points: int = 20
) -> Points:
    """Return points of an axis-aligned ellipse, clockwise from ``start`` to ``stop`` degrees.

    The vertical radius ``ry`` defaults to the horizontal radius ``rx``.
    """
    return _unit_arc(start, stop, points) * (rx, rx if ry is None else ry) + (x, y)


@lru_cache(maxsize=64)
def _unit_arc(start: float, stop: float, points: int) -> Points:
    angles = np.linspace(np.radians(start), np.radians(stop), points)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def arc(outer: float, inner: float, start: float, stop: float) -> Points:
    """Return the outline of the part of an annulus around the origin from ``start`` to ``stop`` degrees."""
    return np.concatenate((ellipse(0, 0, outer, None, start, stop), ellipse(0, 0, inner, None, stop, start)))


def star(outer: float, inner: float, points: int = 5) -> Points:
    """Return the outline of a star around the origin, with one point at the top."""
    angles = np.arange(2 * points) * np.pi / points - np.pi / 2
    return np.where(np.arange(2 * points) % 2, inner, outer)[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)


def thick_line(points: Points, width: float) -> list[Points]:
    """Return one quadrilateral ``(4, 2)`` for each segment of a polyline ``(n, 2)``."""
    along = np.diff(points, axis=0)
    length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = along[:, ::-1] * (-width / 2, width / 2) / length
    corners = (points[:-1] - across, points[1:] - across, points[1:] + across, points[:-1] + across)
    return list(np.stack(corners, axis=1))


def draw_wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    """Draw a wheel: tyre and hub."""
    pen.fill(pen.inks.dark, ellipse(x, y, radius))
    pen.fill(pen.inks.light, ellipse(x, y, radius * 0.42, points=12))


def draw_eye(pen: Pen, x: float, y: float, radius: float) -> None:
    """Draw an eye: white and pupil."""
    pen.fill(pen.inks.light, ellipse(x, y, radius, points=14))
    pen.fill(pen.inks.dark, ellipse(x, y + radius * 0.1, radius * 0.55, points=12))


def draw_window(pen: Pen, x: float, y: float, half: float) -> None:
    """Draw a square window with two crossing bars in the main colour."""
    pen.fill(pen.inks.light, rectangle(x - half, y - half, x + half, y + half))
    bar = half * 0.14
    pen.fill(pen.inks.main, rectangle(x - bar, y - half, x + bar, y + half))
    pen.fill(pen.inks.main, rectangle(x - half, y - bar, x + half, y + bar))


def _face(pen: Pen, rng: np.random.Generator) -> None:
    inks = pen.inks
    pen.fill(inks.main, ellipse(0, 0, 0.9, 1.0, points=28))
    if rng.random() < 0.6:
        pen.fill(inks.accent, ellipse(0, 0, 0.92, 1.02, 205, 335))
    for x in (-0.36, 0.36):
        draw_eye(pen, x, -0.12, 0.2)
    smile = rng.uniform(0.18, 0.34)
    pen.fill(inks.dark, ellipse(0, 0.36, 0.42, smile, 0, 180, points=12))


def _car(pen: Pen, rng: np.random.Generator) -> None:
    inks = pen.inks
    roof = rng.uniform(0.3, 0.55)
    pen.fill(inks.main, polygon((-0.65, -0.05), (-0.4, -0.6), (roof - 0.1, -0.6), (0.62, -0.05)))
    pen.fill(inks.light, polygon((-0.5, -0.1), (-0.33, -0.48), (-0.03, -0.48), (-0.03, -0.1)))
    pen.fill(inks.light, polygon((0.07, -0.1), (0.07, -0.48), (roof - 0.16, -0.48), (0.46, -0.1)))
    pen.fill(inks.main, polygon((-1, -0.1), (0.8, -0.1), (1, 0.06), (1, 0.45), (-1, 0.45)))
    pen.fill(inks.accent, rectangle(-1, 0.12, 1, 0.22))
    for x in (-0.55, 0.55):
        draw_wheel(pen, x, 0.42, 0.28)


def _house(pen: Pen, rng: np.random.Generator) -> None:
    inks = pen.inks
    if rng.random() < 0.5:
        pen.fill(inks.dark, rectangle(0.38, -0.9, 0.62, -0.2))
    pen.fill(inks.main, rectangle(-0.75, -0.15, 0.75, 0.95))
    pen.fill(inks.accent, polygon((-1, -0.1), (0, -0.98), (1, -0.1)))
    side = rng.choice((-1.0, 1.0))
    pen.fill(inks.dark, rectangle(side * 0.36 - 0.19, 0.3, side * 0.36 + 0.19, 0.95))
    draw_window(pen, -side * 0.36, 0.32, 0.24)


def _tree(pen: Pen, rng: np.random.Generator) -> None:
    inks = pen.inks
    pen.fill(inks.dark, rectangle(-0.14, 0.3, 0.14, 1))
    if rng.random() < 0.5:
        for top, bottom, half in ((-0.05, 0.62, 0.8), (-0.52, 0.2, 0.64), (-1.0, -0.25, 0.46)):
            pen.fill(inks.main, polygon((-half, bottom), (0, top), (half, bottom)))
        return
    for x, y, radius in ((-0.38, -0.05, 0.46), (0.38, -0.05, 0.46), (0, -0.48, 0.52), (0, 0.1, 0.4)):
        pen.fill(inks.main, ellipse(x, y, radius))
    for x, y in ((-0.4, -0.1), (0.12, -0.5), (0.42, 0.05)):
        pen.fill(inks.accent, ellipse(x, y, 0.12, points=10))


def _boat(pen: Pen, rng: np.random.Generator) -> None:
    inks = pen.inks
    pen.fill(inks.dark, rectangle(-0.07, -1, 0.07, 0.5))
    foot = rng.uniform(0.7, 0.9)
    pen.fill(inks.light, polygon((0.12, -0.9), (foot, 0.32), (0.12, 0.32)))
    pen.fill(inks.accent, polygon((-0.12, -0.6), (-0.12, 0.32), (-0.7, 0.32)))
    pen.fill(inks.main, polygon((-1, 0.42), (1, 0.42), (0.66, 0.95), (-0.62, 0.95)))


def _fish(pen: Pen, rng: np.random.Generator) -> None:
    inks = pen.inks
    pen.fill(inks.accent, polygon((0.4, 0), (1, -0.5), (0.85, 0), (1, 0.5)))
    pen.fill(inks.accent, polygon((-0.35, -0.3), (0.3, -0.68), (0.3, -0.2)))
    pen.fill(inks.main, ellipse(-0.15, 0, 0.78, rng.uniform(0.42, 0.52), points=26))
    for x in (0.0, 0.25):
        pen.fill(inks.dark, rectangle(x - 0.05, -0.3, x + 0.05, 0.3))
    draw_eye(pen, -0.52, -0.1, 0.15)


def _flower(pen: Pen, rng: np.random.Generator) -> None:
    petals = int(rng.integers(5, 8))
    for angle in np.arange(petals) * 2 * np.pi / petals:
        pen.fill(pen.inks.main, ellipse(0.62 * np.cos(angle), 0.62 * np.sin(angle), 0.36, points=14))
    pen.fill(pen.inks.accent, ellipse(0, 0, 0.38, points=16))
    pen.fill(pen.inks.dark, ellipse(0, 0, 0.16, points=10))


def _ring(pen: Pen, rng: np.random.Generator) -> None:
    inner = rng.uniform(0.45, 0.6)
    pen.fill(pen.inks.main, ellipse(0, 0, 1, points=30), ellipse(0, 0, inner))
    for start in (20, 110, 200, 290):
        pen.fill(pen.inks.accent, arc(1, inner, start, start + 50))


def _star(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, star(1.05, 0.46))
    pen.fill(pen.inks.accent, star(rng.uniform(0.45, 0.6), 0.24))


def _cross(pen: Pen, rng: np.random.Generator) -> None:
    half = rng.uniform(0.26, 0.36)
    pen.fill(pen.inks.main, rectangle(-half, -1, half, 1))
    pen.fill(pen.inks.main, rectangle(-1, -half, 1, half))
    pen.fill(pen.inks.accent, ellipse(0, 0, half * 0.7, points=14))


def _glyph(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, rectangle(-0.75, -1, -0.3, 1))
    middle = rng.uniform(0.3, 0.7)
    for y, right in ((-0.81, 0.75), (0.0, middle), (0.81, 0.75)):
        pen.fill(pen.inks.main, rectangle(-0.4, y - 0.19, right, y + 0.19))


# The ids have gaps, like COCO's, so that code has to map category ids to labels.
CATEGORIES = (
    Category(1, "face", "figure", _face, 20),
    Category(2, "car", "vehicle", _car, 12),
    Category(3, "house", "building", _house, 10),
    Category(5, "tree", "plant", _tree, 10),
    Category(7, "boat", "vehicle", _boat, 15),
    Category(8, "fish", "animal", _fish, 30),
    Category(11, "flower", "plant", _flower, 180),
    Category(13, "ring", "sign", _ring, 180),
    Category(17, "star", "sign", _star, 36),
    Category(18, "cross", "sign", _cross, 25),
    Category(21, "glyph", "sign", _glyph, 15, mirrored=False),
)

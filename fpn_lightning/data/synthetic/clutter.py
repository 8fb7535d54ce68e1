"""Clutter of the generated images: single parts of objects, textures, bars, arcs and flat regions.

Without clutter, every edge in an image would belong to an object. With clutter, a detector has to recognise whole
objects.
"""

from __future__ import annotations

import numpy as np

from fpn_lightning.data.synthetic.shapes import (
    Drawing,
    Pen,
    arc,
    draw_eye,
    draw_wheel,
    draw_window,
    ellipse,
    polygon,
    rectangle,
    thick_line,
)


def _wheels(pen: Pen, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        draw_wheel(pen, 0, 0, 0.8)
        return
    for x in (-0.62, 0.62):
        draw_wheel(pen, x, 0, 0.34)


def _eyes(pen: Pen, rng: np.random.Generator) -> None:
    if rng.random() < 0.4:
        draw_eye(pen, 0, 0, 0.8)
        return
    for x in (-0.5, 0.5):
        draw_eye(pen, x, 0, 0.36)


def _windows(pen: Pen, rng: np.random.Generator) -> None:
    count = int(rng.integers(1, 3))
    for x in np.linspace(-0.5, 0.5, count) if count > 1 else (0.0,):
        draw_window(pen, float(x), 0, 0.8 / count)


def _disc(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, ellipse(0, 0, 0.9, rng.uniform(0.6, 0.9), points=26))


def _half_disc(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, ellipse(0, 0.3, 0.9, rng.uniform(0.6, 0.9), 180, 360))


def _slab(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, rectangle(-0.8, -rng.uniform(0.4, 0.8), 0.8, 0.6))


def _triangle(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, polygon((-0.9, 0.6), (rng.uniform(-0.5, 0.5), -0.8), (0.9, 0.6)))


def _blob(pen: Pen, rng: np.random.Generator) -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    first, second = rng.uniform(0, 2 * np.pi, 2)
    radius = 0.75 + 0.14 * np.sin(2 * angles + first) + 0.1 * np.sin(3 * angles + second)
    pen.fill(pen.inks.main, radius[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1))


def _annulus(pen: Pen, rng: np.random.Generator) -> None:
    pen.fill(pen.inks.main, ellipse(0, 0, 0.9, points=28), ellipse(0, 0, rng.uniform(0.45, 0.7)))


def _open_arc(pen: Pen, rng: np.random.Generator) -> None:
    start = rng.uniform(0, 360)
    pen.fill(pen.inks.main, arc(0.95, rng.uniform(0.55, 0.75), start, start + rng.uniform(120, 270)))


def _polyline(pen: Pen, rng: np.random.Generator) -> None:
    count = int(rng.integers(3, 7))
    points = np.stack((np.linspace(-1, 1, count), rng.uniform(-0.7, 0.7, count)), axis=1)
    for piece in thick_line(points, rng.uniform(0.1, 0.25)):
        pen.fill(pen.inks.main, piece)


def _bars(pen: Pen, rng: np.random.Generator) -> None:
    """Draw one bar, two parallel bars, a T or an L: similar to objects of the categories cross and glyph."""
    kind, half = int(rng.integers(4)), rng.uniform(0.14, 0.26)
    if kind == 1:
        for y in (-0.5, 0.5):
            pen.fill(pen.inks.main, rectangle(-0.9, y - half, 0.9, y + half))
        return
    pen.fill(pen.inks.main, rectangle(-half, -0.9, half, 0.9))
    if kind == 2:
        pen.fill(pen.inks.main, rectangle(-0.8, -0.9, 0.8, -0.9 + 2 * half))
    elif kind == 3:
        pen.fill(pen.inks.main, rectangle(-half, 0.9 - 2 * half, 0.9, 0.9))


def _array(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a texture: a grid of equal discs, squares or annuli."""
    rows, columns = int(rng.integers(2, 6)), int(rng.integers(3, 7))
    step = 2 / max(rows, columns)
    kind, radius = int(rng.integers(3)), step * rng.uniform(0.25, 0.4)
    if kind == 0:
        element = [ellipse(0, 0, radius, points=12)]
    elif kind == 1:
        element = [rectangle(-radius, -radius, radius, radius)]
    else:
        element = [ellipse(0, 0, radius, points=14), ellipse(0, 0, radius * 0.55, points=12)]
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * step - np.array([[rows - 1], [columns - 1]]) * step / 2
    pen.fill(pen.inks.main, *(contour + place for place in np.stack((x, y), axis=1) for contour in element))


def draw_strokes(pen: Pen, rng: np.random.Generator) -> None:
    """Draw one to three long thin strokes, straight or bent, across the whole image. The strokes can hide objects."""
    for _ in range(int(rng.integers(1, 4))):
        angle, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.7, 0.7), rng.uniform(-0.25, 0.25)
        along, across = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
        steps = np.linspace(-1.5, 1.5, 7)
        shift = offset + bend * np.cos(steps * 1.5)
        points = steps[:, None] * np.array(along) + shift[:, None] * np.array(across)
        for piece in thick_line(points, rng.uniform(0.008, 0.024)):
            pen.fill(pen.inks.main, piece)


# The clutter that is most easily mistaken for objects is listed twice, so that it is drawn twice as often.
CLUTTER: tuple[Drawing, ...] = (
    _wheels,
    _wheels,
    _eyes,
    _eyes,
    _windows,
    _windows,
    _array,
    _array,
    _bars,
    _bars,
    _annulus,
    _open_arc,
    _polyline,
    _disc,
    _half_disc,
    _slab,
    _triangle,
    _blob,
)

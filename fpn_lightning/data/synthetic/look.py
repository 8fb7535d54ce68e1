"""Colours and patterns of the generated images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.synthetic.shapes import Colour, Inks

# Each palette has two colours for the background and six inks for drawings, as RGB.
_PALETTES = (
    "d7e8ea a9cdd3 1d3557 e63946 f4a261 2a9d8f 457b9d fefae0",
    "f3e9d2 e2cfa6 6a040f bc6c25 b5838d 606c38 283618 fffdf2",
    "22304a 33466a f2cc8f e07a5f 81b29a f4f1de a8dadc 8d99ae",
    "38513f 51735a f2e8cf d9565b a7c957 ffd166 9fd3c7 16281d",
    "fbe4e6 f0c4cc 6d597a b56576 e56b6f 355070 4f9d94 fffafa",
    "e9dcc3 cfb98e 264653 2a9d8f e76f51 8a5a44 b23a48 fdf8ea",
    "c9d1d9 9fb0bf 0b3954 ff6663 fdca40 087e8b 5d3a6e ffffff",
    "3d2c4a 584370 f7b267 f25c54 9bc1bc f4f1bb e0a4c8 1f1528",
    "e4efc9 b9d39b 14532d 0e7490 ca8a04 be123c 7c4d9e fffbeb",
    "5b5f86 7d7ca3 ffd6a5 ff9b85 cdeac0 fdffb6 2b2d42 8ecae6",
    "f7f3ee e3d5ca 3a5a40 bc4b51 5b8e7d f4a259 33658a 2f3e46",
    "0f4c5c 1b6375 fb8b24 e36414 f6bd60 84dcc6 f7ede2 d66ba0",
)
_JITTER = 9  # largest random change of each colour channel of a palette, drawn anew for each image
_MIN_ACCENT = 60  # smallest Euclidean RGB distance between the main colour and the accent colour of a drawing
_MIN_CONTRAST = 75  # wanted Euclidean RGB distance between a drawing's main colour and the canvas under the drawing


@dataclass(frozen=True)
class Palette:
    """The colours of one image, RGB in [0, 255].

    Attributes:
        grounds: float64 ``(2, 3)``, two colours for the background.
        inks: six colours for objects and clutter.
        dark: dark colour for details.
        light: light colour for details.
    """

    grounds: NDArray[np.float64]
    inks: tuple[Colour, ...]
    dark: Colour
    light: Colour

    def choose(self, rng: np.random.Generator, beneath: tuple[float, float, float]) -> Inks:
        """Choose the colours of a drawing. The main colour contrasts with ``beneath``, the canvas colour under it."""
        contrasts = [math.dist(ink, beneath) for ink in self.inks]
        least = min(_MIN_CONTRAST, sorted(contrasts)[-2])
        main = _pick(rng, [ink for ink, contrast in zip(self.inks, contrasts, strict=True) if contrast >= least])
        accent = _pick(rng, [ink for ink in self.inks if math.dist(ink, main) > _MIN_ACCENT])
        shift = rng.uniform(-14, 14)
        return Inks(_colour([level + shift for level in main]), accent, self.dark, self.light)


def _pick(rng: np.random.Generator, colours: list[Colour]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _colour(levels: list[float]) -> Colour:
    red, green, blue = (int(min(max(level, 0), 255)) for level in levels)
    return red, green, blue


def pick_palette(rng: np.random.Generator) -> Palette:
    """Pick a palette and vary its colours a little."""
    names = _PALETTES[int(rng.integers(len(_PALETTES)))].split()
    colours = np.array([list(bytes.fromhex(name)) for name in names], dtype=np.float64)
    colours += rng.uniform(-_JITTER, _JITTER, colours.shape)
    inks = tuple(_colour(colour) for colour in colours[2:].tolist())
    # Mix the darkest ink with black and the lightest ink with white, so that details are visible in every palette.
    dark = _colour([level * 0.5 + 12 for level in min(inks, key=sum)])
    light = _colour([level * 0.5 + 125 for level in max(inks, key=sum)])
    return Palette(colours[:2], inks, dark, light)


def paint_ground(rng: np.random.Generator, palette: Palette, side: int) -> NDArray[np.uint8]:
    """Paint the background ``(side, side, 3)``: a gradient of two colours, soft patches and a faint pattern."""
    corners = palette.grounds[rng.permutation(2)]
    blend = rng.random((4, 4, 1)) * 0.7 + np.linspace(0, 0.3, 4)[:, None, None]
    coarse = corners[0] * (1 - blend) + corners[1] * blend
    coarse += rng.normal(0, 7, coarse.shape)
    # Cubic interpolation to 32 x 32, followed by linear interpolation, looks as smooth as cubic interpolation alone,
    # but takes a fifth of the time.
    smooth = cv2.resize(coarse.clip(0, 255).astype(np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
    canvas = np.asarray(cv2.resize(smooth, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    apply_pattern(rng, canvas, None, rng.uniform(0.05, 0.3))
    return canvas


def apply_pattern(
    rng: np.random.Generator, area: NDArray[np.uint8], mask: NDArray[np.uint8] | None, strength: float
) -> None:
    """Lighten and darken ``area`` ``(h, w, 3)`` in place with a random pattern.

    Only pixels where ``mask`` ``(h, w)`` is not 0 change. If ``mask`` is None, all pixels change.
    """
    side = 1 << int(max(*area.shape[:2], 64) - 1).bit_length()
    bank = pattern_bank(side)
    pattern = bank[int(rng.integers(len(bank)))]
    height, width = area.shape[:2]
    top, left = (int(rng.integers(side - extent + 1)) for extent in (height, width))
    piece = pattern[top : top + height, left : left + width]
    shaded = cv2.addWeighted(area, 1.0, cv2.merge((piece, piece, piece)), strength, 0, dtype=cv2.CV_8U)
    if mask is None:
        area[...] = shaded
    else:
        cv2.copyTo(shaded, mask, area)


@cache
def pattern_bank(side: int) -> tuple[NDArray[np.int16], ...]:
    """Return all brightness patterns, each int16 ``(side, side)`` in [-40, 40]; they are the same in every process."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    patterns = []
    for angle, period in ((0, 9), (90, 12), (45, 16), (135, 10), (20, 24), (70, 30)):
        phase = (x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))) * (2 * np.pi / period)
        patterns.append(np.sin(phase) * 24)
    patterns.append(np.sign(np.sin(x * np.pi / 8) * np.sin(y * np.pi / 8)) * 18)
    patterns.append(np.where((x % 14 - 7) ** 2 + (y % 14 - 7) ** 2 < 14, 32.0, -8.0))
    for cell in (8, 16, 32):
        cells = rng.normal(0, 20, (side // cell + 2,) * 2).astype(np.float32)
        patterns.append(cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC))
    for towards in (x, y, -x):
        patterns.append((towards - towards.mean()) * (64 / side))
    return tuple(np.clip(pattern, -40, 40).astype(np.int16) for pattern in patterns)

"""Draw one generated image from back to front, with the exact visible mask of every object.

Everything is drawn on a canvas with twice the side of the image. Each drawing writes its colours to the canvas and its
object's number to the same pixels of the array ``owners``. A pixel of the image is the average of 2 x 2 canvas pixels.
A pixel belongs to an object's mask if the majority of the same 2 x 2 pixels of ``owners`` have the object's number. The
masks are therefore exact where other drawings or the image border hide a part of an object.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.synthetic.clutter import CLUTTER, draw_strokes
from fpn_lightning.data.synthetic.look import apply_pattern, paint_ground, pick_palette
from fpn_lightning.data.synthetic.shapes import CATEGORIES, Category, Inks, Pen

_EMPTY_SHARE = 0.03  # fraction of images without any object
_CROWD_SHARE = 0.12  # planned fraction of images with a crowd region; about half of them have room for the crowd
# Planned fractions of small, medium and large objects; occlusion and lack of room change them to about 36/39/25 %.
_SIZE_SHARES = (0.35, 0.37, 0.28)
_MAX_PLANNED = 12
_MIN_VISIBLE_SHARE = 0.4  # an object is annotated only if at least this fraction of its pixels is visible
_MIN_VISIBLE_SIDE = 0.022  # smallest visible √area of an annotated object, as a fraction of the image's side
_MAX_COVERED = 0.5  # largest fraction of an object's box that later drawings may cover
_COCO_SIDE = 554  # side of a square with the area of a typical COCO image: √(640 · 480)


def area_thresholds(size: int) -> tuple[float, float]:
    """Return the area limits between small, medium and large objects: COCO's 32² and 96², scaled to images of ``size``.

    The limits are rounded to whole px², for example (85.0, 769.0) for 160 px.
    """
    scale = (size / _COCO_SIDE) ** 2
    return float(round(32**2 * scale)), float(round(96**2 * scale))


@dataclass(frozen=True)
class SceneObject:
    """An annotated object. ``mask`` is uint8 ``(H, W)``: 1 at the object's visible pixels (at least one), else 0."""

    category_id: int
    is_crowd: bool
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """A finished image (``pixels``, uint8 ``(H, W, 3)`` RGB) and its objects, ordered from back to front."""

    pixels: NDArray[np.uint8]
    objects: list[SceneObject]


def draw_scene(seed: int, split: str, index: int, size: int) -> Scene:
    """Draw image ``index`` of a split. The result depends only on the four arguments."""
    entropy = np.random.SeedSequence((seed, zlib.crc32(split.encode()), index, size))
    painter = _Painter(np.random.Generator(np.random.PCG64(entropy)), size)
    painter.paint()
    return Scene(painter.pixels(), painter.visible_objects())


@dataclass(frozen=True)
class _Placed:
    """An object on the canvas, or a group of objects that is annotated as one crowd region."""

    category: Category
    is_crowd: bool
    own_area: float  # area in image px², before later drawings hide a part of the object
    box: tuple[int, int, int, int]  # xyxy, even canvas pixels


class _Painter:
    """Paints one scene. Lengths are in canvas pixels (half an image pixel), unless a name says otherwise."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.side = 2 * size
        self.thresholds = area_thresholds(size)
        self.palette = pick_palette(rng)
        self.canvas = paint_ground(rng, self.palette, self.side)
        self.owners = np.zeros((self.side, self.side), np.uint8)
        self.placed: list[_Placed] = []
        self.boxes = np.zeros((0, 4))  # boxes (xyxy) of the objects drawn so far, which have to stay visible
        self.covered = np.zeros(0)  # for each box in ``boxes``, the fraction that later drawings cover

    def paint(self) -> None:
        """Paint clutter, then objects from large to small with clutter between them, then a crowd and clutter."""
        rng = self.rng
        self._clutter(int(rng.integers(3, 8)), 0.06, 0.38)
        empty, crowd = rng.random() < _EMPTY_SHARE, rng.random() < _CROWD_SHARE
        planned = 0 if empty else int(rng.integers(1, _MAX_PLANNED + 1))
        sides = self._plan_sides(planned)
        for number, side in enumerate(sides):
            self._object(CATEGORIES[int(rng.integers(len(CATEGORIES)))], side)
            if number % 3 == 2:
                self._clutter(1, 0.04, 0.2)
        if crowd and not empty:
            self._crowd()
        self._clutter(int(rng.integers(2, 7)), 0.03, 0.16)
        if rng.random() < 0.4:
            middle = self.side / 2
            matrix = np.array([[middle, 0, middle], [0, middle, middle]])
            draw_strokes(Pen(self.canvas, self.owners, matrix, 0, self._inks((middle, middle), middle)), rng)

    def _plan_sides(self, count: int) -> NDArray[np.float64]:
        """Sample √area of ``count`` objects, sorted roughly from large to small. Small objects are mostly in front."""
        small, medium = (2 * np.sqrt(limit) for limit in self.thresholds)
        lower = np.array((0.5 * small, 1.05 * small, 1.08 * medium))
        upper = np.array((0.97 * small, 0.98 * medium, 0.7 * self.side))
        kind = self.rng.choice(3, count, p=_SIZE_SHARES)
        sides = np.exp(self.rng.uniform(np.log(lower[kind]), np.log(upper[kind])))
        return sides[np.argsort(-sides * np.exp(self.rng.normal(0, 0.3, count)))]

    def _object(self, category: Category, area_side: float) -> None:
        flip = self.rng.choice((-1.0, 1.0)) if category.mirrored else 1.0
        half = area_side / unit_side(category)
        stretch = np.exp(self.rng.uniform(-0.2, 0.2))
        angle = np.radians(self.rng.uniform(-category.tilt, category.tilt))
        extent = half * max(stretch, 1 / stretch)
        centre = self._find_room(extent)
        if centre is None:
            return
        inks = self._inks(centre, extent)
        matrix = _affine(centre, angle, flip * half * stretch, half / stretch)
        owner = len(self.placed) + 1
        category.draw(Pen(self.canvas, self.owners, matrix, owner, inks), self.rng)
        self._finish(category, False)

    def _finish(self, category: Category, is_crowd: bool) -> None:
        """Add a pattern to the object that was drawn last, and append the object to ``placed``."""
        mask = (self.owners == len(self.placed) + 1).view(np.uint8)
        x1, y1, width, height = cv2.boundingRect(mask)
        x1, y1, x2, y2 = x1 // 2 * 2, y1 // 2 * 2, -(-(x1 + width) // 2) * 2, -(-(y1 + height) // 2) * 2
        mask = mask[y1:y2, x1:x2]
        apply_pattern(self.rng, self.canvas[y1:y2, x1:x2], mask, self.rng.uniform(0.1, 0.5))
        self.placed.append(_Placed(category, is_crowd, cv2.countNonZero(mask) / 4, (x1, y1, x2, y2)))
        self.boxes = np.vstack((self.boxes, np.array((x1, y1, x2, y2), dtype=np.float64)))
        self.covered = np.append(self.covered, 0.0)

    def _clutter(self, count: int, smallest: float, largest: float) -> None:
        """Draw ``count`` pieces of clutter.

        Half the side of a piece of clutter is between ``smallest`` and ``largest``, as fractions of the canvas's side.
        """
        for _ in range(count):
            draw = CLUTTER[int(self.rng.integers(len(CLUTTER)))]
            half = self.side * float(np.exp(self.rng.uniform(np.log(smallest), np.log(largest))))
            centre = self._find_room(half)
            if centre is None:
                continue
            inks = self._inks(centre, half)
            matrix = _affine(centre, self.rng.uniform(-np.pi, np.pi) * 0.25, half, half)
            draw(Pen(self.canvas, self.owners, matrix, 0, inks), self.rng)

    def _crowd(self) -> None:
        """Draw a dense group of small objects of one category, which is annotated as one crowd region."""
        rng, category = self.rng, CATEGORIES[int(self.rng.integers(len(CATEGORIES)))]
        half = self.side * rng.uniform(0.15, 0.28)
        centre = self._find_room(half)
        if centre is None:
            return
        owner, inks = len(self.placed) + 1, self._inks(centre, half)
        member = 2 * np.sqrt(self.thresholds[0]) * rng.uniform(0.32, 0.5)
        flatness = rng.uniform(0.55, 1.0)
        steps = np.arange(-half, half + 1, member * 1.9)
        for x, y in ((x, y * flatness) for y in steps for x in steps if x * x + y * y < 0.8 * half * half):
            dx, dy, turn = rng.normal(0, (0.18 * member, 0.18 * member, 0.15))
            scale = member * rng.uniform(0.8, 1.1)
            matrix = _affine((centre[0] + x + dx, centre[1] + y + dy), turn, scale, scale)
            category.draw(Pen(self.canvas, self.owners, matrix, owner, inks), rng)
        # The crowd region includes the gaps between its members, like an annotator's outline of a group.
        members = (self.owners == owner).view(np.uint8)
        reach = 2 * int(member) + 1
        closed = cv2.morphologyEx(members, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
        self._finish(category, True)
        self.owners[(closed == 1) & (self.owners == 0)] = owner

    def _find_room(self, half: float) -> tuple[float, float] | None:
        """Choose the centre of a new drawing, of side ``2 * half``, so that earlier objects stay visible.

        Returns:
            x and y of the centre; None if ten random centres are all unsuitable.
        """
        margin = min(0.8 * half, self.side / 2)
        centres = self.rng.uniform(margin, self.side - margin, (10, 2))
        low = np.maximum(centres[:, None] - half, self.boxes[:, :2])
        high = np.minimum(centres[:, None] + half, self.boxes[:, 2:])
        areas = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        covered = self.covered + (high - low).clip(0).prod(axis=2) / areas  # (tries, boxes)
        first = int((covered <= _MAX_COVERED).all(axis=1).argmax())
        if (covered[first] > _MAX_COVERED).any():
            return None
        self.covered = covered[first]
        x, y = centres[first].tolist()
        return x, y

    def _inks(self, centre: tuple[float, float], half: float) -> Inks:
        """Choose colours that contrast with the canvas in a square of side ``2 * half`` around ``centre``."""
        x1, y1 = (max(int(value - half), 0) for value in centre)
        x2, y2 = (int(value + half) + 1 for value in centre)
        step = max(int(half) // 4, 1)
        red, green, blue = self.canvas[y1:y2:step, x1:x2:step].mean(axis=(0, 1)).tolist()
        return self.palette.choose(self.rng, (red, green, blue))

    def pixels(self) -> NDArray[np.uint8]:
        """Return the final image: each pixel is the average of 2 x 2 canvas pixels."""
        half = self.side // 2
        return np.asarray(cv2.resize(self.canvas, (half, half), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def visible_objects(self) -> list[SceneObject]:
        """Return the objects that are visible enough to be annotated, with their visible masks."""
        least = (_MIN_VISIBLE_SIDE * self.side / 2) ** 2
        objects = []
        for number, placed in enumerate(self.placed, start=1):
            x1, y1, x2, y2 = placed.box
            mask = np.zeros((self.side // 2, self.side // 2), np.uint8)
            mask[y1 // 2 : y2 // 2, x1 // 2 : x2 // 2] = _majority(self.owners[y1:y2, x1:x2] == number)
            area = cv2.countNonZero(mask)
            if area >= max(least, _MIN_VISIBLE_SHARE * placed.own_area):
                objects.append(SceneObject(placed.category.id, placed.is_crowd, mask))
        return objects


def _majority(owned: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Halve the size of a mask: the majority of each 2 x 2 pixels decides; the top left pixel breaks a tie."""
    quarters = owned.view(np.uint8)
    count = quarters[0::2, 0::2] + quarters[0::2, 1::2] + quarters[1::2, 0::2] + quarters[1::2, 1::2]
    return (count + quarters[0::2, 0::2] > 2).view(np.uint8)


def _affine(centre: tuple[float, float], angle: float, scale_x: float, scale_y: float) -> NDArray[np.float64]:
    """Return the ``(2, 3)`` matrix that scales a shape, rotates it by ``angle`` radians and moves it to ``centre``."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos * scale_x, -sin * scale_y, centre[0]], [sin * scale_x, cos * scale_y, centre[1]]])


@cache
def unit_side(category: Category) -> float:
    """Return √area of a category's shape before it is scaled to the canvas (coordinates from about -1 to 1).

    The area is the mean over 8 drawings of the shape, because a shape has random details.
    """
    side, rng = 200, np.random.default_rng(0)
    ink = (0, 0, 0)
    areas = []
    for _ in range(8):
        owners = np.zeros((side, side), np.uint8)
        matrix = _affine((side / 2, side / 2), 0, side / 4, side / 4)
        category.draw(Pen(np.zeros((side, side, 3), np.uint8), owners, matrix, 1, Inks(ink, ink, ink, ink)), rng)
        areas.append(cv2.countNonZero(owners) / (side / 4) ** 2)
    return float(np.sqrt(np.mean(areas)))

"""One picture of one image: what was found in it with a legend, and beside it the maps of the levels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fpn_lightning.drawing.boxes import (
    FONT,
    LEVEL_COLOURS,
    LINE,
    LONGEST,
    Colour,
    draw_boxes,
    draw_ground_truth,
    draw_names,
    drawing_scale,
    enlarge,
)
from fpn_lightning.drawing.feature_maps import VIRIDIS, FeatureMap, paint
from fpn_lightning.drawing.marks import Marks
from fpn_lightning.drawing.masks import draw_masks

_GAP, _TEXT = 8, 15  # px: between parts; height of a line of text
_MAPS = "maps: how much a cell stands out"
_LEAST = 60  # px: a picture of a very flat or narrow image is not smaller


def draw_marks(
    pixels: NDArray[np.uint8],
    marks: Marks,
    ground_truth_orig: NDArray[np.float64] | None = None,
    longest: int = LONGEST,
) -> Image.Image:
    """The image with what was found in it, and with the ground truth dashed.

    Args:
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        marks: boxes in pixels of that file.
        ground_truth_orig: float64 ``(G, 4)`` xyxy, pixels of the image file; None where it is not known.
        longest: most px of the image's longer side in the picture.

    Returns:
        RGB, the image enlarged by ``drawing_scale(its size, longest)``.
    """
    scale = drawing_scale((pixels.shape[0], pixels.shape[1]), longest)
    if marks.masks:
        picture = draw_masks(pixels, marks.masks, marks.colours, longest)
    else:
        picture = Image.fromarray(enlarge(pixels, scale))
        draw_boxes(picture, marks.boxes_orig, marks.colours, scale)
    if ground_truth_orig is not None:
        draw_ground_truth(picture, ground_truth_orig, scale)
    if marks.names:
        draw_names(picture, marks.boxes_orig, marks.names, marks.colours, scale)
    return picture


def draw_sheet(
    title: str,
    pixels: NDArray[np.uint8],
    marks: Marks,
    maps: Sequence[FeatureMap],
    ground_truth_orig: NDArray[np.float64] | None = None,
    longest: int = LONGEST,
) -> Image.Image:
    """What was found in an image and its feature maps side by side, with title and legend.

    Args:
        title: a line above.
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        marks: boxes in pixels of that file.
        maps: finest first.
        ground_truth_orig: float64 ``(G, 4)`` xyxy, pixels of the image file; None where it is not known.
        longest: most px of the image's longer side in the picture.
    """
    picture = draw_marks(pixels, marks, ground_truth_orig, longest)
    panels = _panels(maps, picture.height, picture.width)
    legend = _legend(marks.legend, ground_truth_orig is not None)
    left = max(picture.width, _LEAST, round(FONT.getlength(marks.heading)) + 1)
    width = max(left + _GAP + panels.width, legend.width, round(FONT.getlength(title)) + 1)
    height = max(_TEXT + picture.height, panels.height)
    sheet = Image.new("RGB", (width + 2 * _GAP, height + 2 * _TEXT + 3 * _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill="black", font=FONT)
    top = 2 * _GAP + _TEXT
    draw.text((_GAP, top), marks.heading, fill="black", font=FONT)
    sheet.paste(picture, (_GAP, top + _TEXT))
    sheet.paste(panels, (_GAP + left + _GAP, top))
    sheet.paste(legend, (_GAP, top + height + _GAP // 2))
    return sheet


def png(picture: Image.Image) -> bytes:
    """A PNG with a palette, a third of the size; the same bytes for the same picture.

    Colours that mean something stay as they are: lines are few pixels and would get the colour of something larger.
    """
    kept = (*LEVEL_COLOURS, (0, 0, 0), (255, 255, 255))
    small = picture.quantize(256 - len(kept), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    numbers = np.asarray(small) + np.uint8(len(kept))
    packed = _packed(np.asarray(picture))
    for number, colour in enumerate(kept):
        numbers[packed == _packed(np.asarray(colour))] = number
    out = Image.fromarray(numbers)
    out.putpalette([*(value for colour in kept for value in colour), *(small.getpalette() or [])])
    buffer = io.BytesIO()
    out.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _packed(colours: NDArray[np.generic]) -> NDArray[np.uint32]:
    """Each RGB triple as one number: ``(..., 3) -> (...)``."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def _panels(maps: Sequence[FeatureMap], height: int, width: int) -> Image.Image:
    """The maps, each below its name and stride: one as large as the picture, several at half its size in two rows."""
    if not maps:
        return Image.new("RGB", (1, 1), "white")
    rows = 1 if len(maps) == 1 else 2
    columns = -(-len(maps) // rows)
    panel_height = max(height if rows == 1 else (height - _TEXT - _GAP) // 2, _LEAST)
    panel_width = max(round(panel_height * width / height), _LEAST) if height >= _LEAST else max(width // rows, _LEAST)
    step_x, step_y = panel_width + _GAP, panel_height + _TEXT + _GAP
    panels = Image.new("RGB", (columns * step_x - _GAP, rows * step_y - _GAP), "white")
    draw = ImageDraw.Draw(panels)
    for number, feature_map in enumerate(maps):
        x, y = number % columns * step_x, number // columns * step_y
        cells = " x ".join(str(side) for side in reversed(feature_map.strength.shape))
        draw.text((x, y), f"{feature_map.name}, stride {feature_map.stride}: {cells}", fill="black", font=FONT)
        panels.paste(Image.fromarray(paint(feature_map, panel_height, panel_width)), (x, y + _TEXT))
    return panels


def _legend(entries: Sequence[tuple[str, Colour]], ground_truth: bool) -> Image.Image:
    """A swatch and a text for each entry, a dashed one for the ground truth, and how maps are to be read."""
    texts = [text for text, _ in entries] + ["ground truth"] * ground_truth + [_MAPS]
    lengths = [round(FONT.getlength(text)) + 1 for text in texts]
    legend = Image.new("RGB", (sum(30 + length + 2 * _GAP for length in lengths) + 1, _TEXT), "white")
    draw = ImageDraw.Draw(legend)
    x = 0
    for number, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        if number < len(entries):
            draw.rectangle((x, 2, x + 23, _TEXT - 3), outline=entries[number][1], width=LINE + 2)
        elif text == _MAPS:
            swatch = np.repeat(VIRIDIS[None, :: -(-256 // 24)], _TEXT - 4, axis=0)
            legend.paste(Image.fromarray(np.ascontiguousarray(swatch)), (x, 2))
        else:
            draw_ground_truth(legend, np.asarray([[x, 2, x + 24, _TEXT - 2]], dtype=np.float64))
        draw.text((x + 30, 0), text, fill="black", font=FONT)
        x += 30 + length + 2 * _GAP
    return legend

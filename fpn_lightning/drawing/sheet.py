"""One picture of one image: the top proposals by level with a legend, and beside them the maps of the levels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fpn_lightning.drawing.boxes import (
    LINE,
    draw_boxes,
    draw_ground_truth,
    drawing_scale,
    enlarge,
    level_colour,
)
from fpn_lightning.drawing.feature_maps import FeatureMap, paint
from fpn_lightning.structures import ProposalsOrig

_GAP, _TEXT = 8, 15  # px: between parts; height of a line of text
_LEAST = 60  # px: a picture of a very flat or narrow image is not smaller
_FONT = ImageFont.load_default(12)


def draw_proposals(
    pixels: NDArray[np.uint8],
    proposals: ProposalsOrig,
    ground_truth_orig: NDArray[np.float64] | None = None,
    top_k: int = 30,
) -> Image.Image:
    """The image with its best proposals, each in the colour of its level, and with the ground truth dashed.

    Args:
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        proposals: of that image, best first.
        ground_truth_orig: float64 ``(G, 4)`` xyxy, pixels of the image file; None where it is not known.
        top_k: how many proposals are drawn.

    Returns:
        RGB, the image enlarged by ``drawing_scale(its size)``.
    """
    scale = drawing_scale((pixels.shape[0], pixels.shape[1]))
    picture = Image.fromarray(enlarge(pixels, scale))
    colours = [level_colour(level) for level in proposals.levels[:top_k].tolist()]
    draw_boxes(picture, proposals.boxes_orig[:top_k].numpy(), colours, scale)
    if ground_truth_orig is not None:
        draw_ground_truth(picture, ground_truth_orig, scale)
    return picture


def draw_sheet(
    title: str,
    pixels: NDArray[np.uint8],
    proposals: ProposalsOrig,
    maps: Sequence[FeatureMap],
    ground_truth_orig: NDArray[np.float64] | None = None,
    top_k: int = 30,
) -> Image.Image:
    """Proposals and feature maps of one image side by side, with title and legend.

    Args:
        title: a line above.
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        proposals: of that image, best first.
        maps: finest first.
        ground_truth_orig: float64 ``(G, 4)`` xyxy, pixels of the image file; None where it is not known.
        top_k: how many proposals are drawn.
    """
    picture = draw_proposals(pixels, proposals, ground_truth_orig, top_k)
    panels = _panels(maps, picture.height, picture.width)
    levels = sorted({int(feature_map.name[1:]) for feature_map in maps} | set(proposals.levels[:top_k].tolist()))
    counts = {level: int((proposals.levels[:top_k] == level).sum()) for level in levels}
    legend = _legend(counts, ground_truth_orig is not None)
    left = max(picture.width, _LEAST)
    width = max(left + _GAP + panels.width, legend.width, round(_FONT.getlength(title)) + 1)
    height = max(_TEXT + picture.height, panels.height)
    sheet = Image.new("RGB", (width + 2 * _GAP, height + 2 * _TEXT + 3 * _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill="black", font=_FONT)
    top = _GAP + _TEXT
    draw.text((_GAP, top), f"top {min(top_k, len(proposals))} proposals", fill="black", font=_FONT)
    sheet.paste(picture, (_GAP, top + _TEXT))
    sheet.paste(panels, (_GAP + left + _GAP, top))
    sheet.paste(legend, (_GAP, top + height + _GAP))
    return sheet


def png(picture: Image.Image, colours: int = 256) -> bytes:
    """A PNG with a palette, a third of the size; the same bytes for the same picture."""
    small = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


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
        cells = "×".join(str(side) for side in reversed(feature_map.strength.shape))
        draw.text((x, y), f"{feature_map.name} · stride {feature_map.stride} · {cells}", fill="black", font=_FONT)
        panels.paste(Image.fromarray(paint(feature_map, panel_height, panel_width)), (x, y + _TEXT))
    return panels


def _legend(counts: dict[int, int], ground_truth: bool) -> Image.Image:
    """A swatch for each level with the number of its proposals, and a dashed one for the ground truth."""
    texts = [f"p{level}: {count}" for level, count in counts.items()] + ["ground truth"] * ground_truth
    lengths = [round(_FONT.getlength(text)) + 1 for text in texts]
    legend = Image.new("RGB", (sum(30 + length + 2 * _GAP for length in lengths) + 1, _TEXT), "white")
    draw = ImageDraw.Draw(legend)
    x = 0
    for text, length, level in zip(texts, lengths, [*counts, None], strict=False):
        if level is None:
            draw_ground_truth(legend, np.asarray([[x, 2, x + 24, _TEXT - 2]], dtype=np.float64))
        else:
            draw.rectangle((x, 2, x + 23, _TEXT - 3), outline=level_colour(level), width=LINE + 2)
        draw.text((x + 30, 0), text, fill="black", font=_FONT)
        x += 30 + length + 2 * _GAP
    return legend

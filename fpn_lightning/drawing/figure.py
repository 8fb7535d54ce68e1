"""Compose the picture of an image: predictions and ground truth beside feature maps, with a title and a legend."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import to_pil_image

from fpn_lightning.drawing.feature_maps import VIRIDIS, FeatureMap, paint
from fpn_lightning.drawing.image import DrawnImage, draw_boxes, draw_ground_truth

_FONT = ImageFont.load_default(12)  # the font cannot draw × and –, so texts contain x and -
_GAP, _LINE = 8, 15  # px: gap between the parts of a figure; height of a line of text
_MIN_SIDE = 60  # px: minimum width and height of a drawn map, even if the image is very wide or very tall
_SWATCH = (24, 11)  # px: width and height of a colour sample in the legend


def draw_figure(title: str, drawn: DrawnImage, maps: Sequence[FeatureMap], with_ground_truth: bool) -> Image.Image:
    """Put an image and its feature maps side by side.

    Args:
        title: a line above the picture.
        drawn: the image with its predictions.
        maps: the feature maps, finest first; may be empty.
        with_ground_truth: whether the legend explains the dashed boxes of the ground truth.
    """
    image = to_pil_image(drawn.pixels)
    parts = [_below(drawn.heading, image), *([_panels(maps, image.height, image.width)] if maps else [])]
    content = _join([_text(title), _join(parts), _legend(drawn, with_ground_truth)], vertical=True)
    figure = Image.new("RGB", (content.width + 2 * _GAP, content.height + 2 * _GAP), "white")
    figure.paste(content, (_GAP, _GAP))
    return figure


def png(picture: Image.Image) -> bytes:
    """Encode a picture as PNG. The same picture always gives the same bytes.

    Pictures are committed to git, so small files are needed. With a palette of 256 colours, the PNG of a photograph
    has about 200 kB; without a palette, about 800 kB. Pillow's octree method chooses the palette, because Pillow's
    method of median cut would change the colours of thin lines much more.
    """
    buffer = io.BytesIO()
    palette = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _join(parts: Sequence[Image.Image], vertical: bool = False, gap: int = _GAP) -> Image.Image:
    """Join pictures on a white background, side by side or one below the other."""
    step = [part.height if vertical else part.width for part in parts]
    across = max(part.width if vertical else part.height for part in parts)
    along = sum(step) + gap * (len(parts) - 1)
    joined = Image.new("RGB", (across, along) if vertical else (along, across), "white")
    for number, part in enumerate(parts):
        place = sum(step[:number]) + gap * number
        joined.paste(part, (0, place) if vertical else (place, 0))
    return joined


def _text(text: str) -> Image.Image:
    line = Image.new("RGB", (round(_FONT.getlength(text)) + 1, _LINE), "white")
    ImageDraw.Draw(line).text((0, 0), text, fill="black", font=_FONT)
    return line


def _below(text: str, picture: Image.Image) -> Image.Image:
    return _join([_text(text), picture], vertical=True, gap=0)


def _panels(maps: Sequence[FeatureMap], height: int, width: int) -> Image.Image:
    """Draw all maps, each below its name and stride.

    A single map is as high as the image. Several maps are drawn in two rows, at half the height of the image.
    """
    rows = 1 if len(maps) == 1 else 2
    panel_height = max((height - (rows - 1) * (_LINE + _GAP)) // rows, _MIN_SIDE)
    panel_width = max(round(panel_height * width / height) if height >= _MIN_SIDE else width // rows, _MIN_SIDE)
    panels = []
    for feature_map in maps:
        cells = " x ".join(str(side) for side in reversed(feature_map.strength.shape))
        painted = Image.fromarray(paint(feature_map, panel_height, panel_width))
        panels.append(_below(f"{feature_map.name}, stride {feature_map.stride}: {cells}", painted))
    columns = -(-len(panels) // rows)
    return _join([_join(panels[i : i + columns]) for i in range(0, len(panels), columns)], vertical=True)


def _legend(drawn: DrawnImage, with_ground_truth: bool) -> Image.Image:
    """Draw the legend: a colour sample and a text for each level, for the ground truth and for the maps."""
    width, height = _SWATCH
    box, white = torch.tensor([[0, 0, width, height]]), torch.full((3, height, width), 255, dtype=torch.uint8)
    entries = [(draw_boxes(white, box, [colour]), text) for text, colour in drawn.legend]
    if with_ground_truth:
        entries.append((draw_ground_truth(white, box), "ground truth"))
    colours = VIRIDIS[np.linspace(0, 255, width).astype(int)]  # (W, 3)
    entries.append((torch.from_numpy(colours).T[:, None].expand(3, height, width), "maps: how much a cell stands out"))
    return _join([_join([to_pil_image(swatch), _text(text)]) for swatch, text in entries], gap=2 * _GAP)

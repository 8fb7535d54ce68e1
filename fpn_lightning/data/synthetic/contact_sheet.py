"""One picture of the first images of a generated split, with boxes, masks and names, to see what the data is like."""

from __future__ import annotations

import colorsys
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_api

from fpn_lightning.data.synthetic.shapes import CATEGORIES, Colour

_ROWS, _COLUMNS, _CELL, _GAP = 4, 5, 220, 6


def save_contact_sheet(root: Path, split: str) -> None:
    """Write ``root/contact_sheet.png`` from up to 20 images of a split, as its files describe them.

    Colours stand for categories; a crowd region is named "crowd of ...".
    """
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    images = content["images"][: _ROWS * _COLUMNS]
    rows = -(-len(images) // _COLUMNS)
    step = _CELL + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step + _GAP, rows * step + _GAP), "white")
    for number, image in enumerate(images):
        annotations = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        cell = _cell(root / split / image["file_name"], annotations)
        sheet.paste(cell, (_GAP + number % _COLUMNS * step, _GAP + number // _COLUMNS * step))
    # A palette keeps the file to a third.
    small = sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    temporary = root / f".contact_sheet.{os.getpid()}.tmp"
    small.save(temporary, format="PNG", optimize=True)
    temporary.replace(root / "contact_sheet.png")


def _cell(path: Path, annotations: list[dict[str, Any]]) -> Image.Image:
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = _CELL / image.width
    picture = image.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
    for annotation in annotations:
        mask = Image.fromarray(_decode(annotation["segmentation"], image.height, image.width) * np.uint8(64))
        colour = _colours()[annotation["category_id"]]
        picture.paste(colour, mask=mask.resize(picture.size, Image.Resampling.BILINEAR))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(9)
    names = {category.id: category.name for category in CATEGORIES}
    for annotation in annotations:
        x, y, width, height = (value * scale for value in annotation["bbox"])
        colour = _colours()[annotation["category_id"]]
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour)
        name = names[annotation["category_id"]]
        _label(draw, font, (x, y), f"crowd of {name}" if annotation["iscrowd"] else name, colour)
    return picture


def _label(draw: ImageDraw.ImageDraw, font: Any, corner: tuple[float, float], text: str, colour: Colour) -> None:
    """Write a name on a strip above the corner, or below it at the upper border."""
    width = font.getlength(text)
    left = min(max(corner[0], 0), _CELL - width - 4)
    top = corner[1] - 11 if corner[1] >= 11 else corner[1]
    draw.rectangle((left, top, left + width + 3, top + 10), fill=colour)
    draw.text((left + 2, top - 1), text, fill="white", font=font)


def _decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        code = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = mask_api.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return np.asarray(mask_api.decode(code), dtype=np.uint8)


def _colours() -> dict[int, Colour]:
    """One strong, fairly dark colour per category id, white text is readable on it."""
    colours = {}
    for number, category in enumerate(CATEGORIES):
        red, green, blue = colorsys.hsv_to_rgb(number / len(CATEGORIES), 0.85, 0.72)
        colours[category.id] = (int(red * 255), int(green * 255), int(blue * 255))
    return colours

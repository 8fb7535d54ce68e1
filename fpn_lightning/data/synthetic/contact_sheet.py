"""Draw the contact sheet: one picture of the first images of a split, with boxes, masks and category names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.functional import resize, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from fpn_lightning.data.coco.segmentations import compressed_rle
from fpn_lightning.data.synthetic.shapes import CATEGORIES
from fpn_lightning.files import whole_file

_IMAGES, _COLUMNS = 20, 5
_CELL, _GAP, _LABEL = 240, 6, 14  # px
# One colour per category, dark enough as the background of white text.
_COLOURS = {c.id: f"hsl({360 * n // len(CATEGORIES)}, 75%, 40%)" for n, c in enumerate(CATEGORIES)}
_NAMES = {category.id: category.name for category in CATEGORIES}


def save_contact_sheet(root: Path, split: str, content: dict[str, Any]) -> None:
    """Write ``root/contact_sheet.png`` with the first 20 images of a split. ``content`` holds its annotations."""
    cells = []
    for image in content["images"][:_IMAGES]:
        annotations = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        pixels = decode_image(str(root / split / image["file_name"]), ImageReadMode.RGB)
        cells.append(_draw(resize(pixels, [_CELL, _CELL]), annotations, image["width"]))
    sheet = to_pil_image(make_grid(cells, nrow=_COLUMNS, padding=_GAP, pad_value=255))
    with whole_file(root / "contact_sheet.png") as temporary:
        sheet.quantize(256).save(temporary, format="PNG", optimize=True)  # 256 colours make the file smaller


def _draw(pixels: Tensor, annotations: list[dict[str, Any]], size: int) -> Tensor:
    """Return the pixels of a scaled image, uint8 ``(3, H, W)``, with the image's annotations drawn on them.

    ``size`` is the side of the square image before it was scaled.
    """
    if not annotations:
        return pixels
    masks = [mask_api.decode(compressed_rle(item["segmentation"], size, size)) for item in annotations]
    scaled = resize(torch.from_numpy(np.stack(masks)), list(pixels.shape[1:])) > 0
    colours = [_COLOURS[item["category_id"]] for item in annotations]
    names = ["crowd of " * item["iscrowd"] + _NAMES[item["category_id"]] for item in annotations]
    boxes = torch.tensor([item["bbox"] for item in annotations])
    boxes[:, 2:] += boxes[:, :2]  # x, y, width, height -> x1, y1, x2, y2
    boxes *= _CELL / size
    pixels = draw_segmentation_masks(pixels, scaled, 0.25, list(colours))
    pixels = draw_bounding_boxes(pixels, boxes, colors=list(colours))
    # Write the labels above the boxes. torchvision writes a label inside its box, where the label hides a small object.
    above = (boxes - torch.tensor([0, _LABEL, 0, _LABEL])).clamp(min=0)
    return draw_bounding_boxes(pixels, above, names, list(colours), width=0, label_colors="white", fill_labels=True)

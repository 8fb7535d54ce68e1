"""Masks on an image, filled and outlined (FPN §6, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api

from fpn_lightning.drawing.boxes import LONGEST, Colour, drawing_scale, enlarge
from fpn_lightning.structures import RLE

FILL = 0.45  # how much of a covered pixel is the mask's colour


def draw_masks(
    pixels: NDArray[np.uint8], masks: Sequence[RLE], colours: Sequence[Colour], longest: int = LONGEST
) -> Image.Image:
    """The image with masks; where several cover a pixel the first is seen.

    Args:
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        masks: of the image file's size, the best first.
        colours: one for each mask.
        longest: most px of the image's longer side in the picture.

    Returns:
        RGB, the image enlarged by ``drawing_scale(its size, longest)``.
    """
    scale = drawing_scale((pixels.shape[0], pixels.shape[1]), longest)
    canvas = enlarge(pixels, scale).copy()
    plain = canvas.copy()
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):
        size = canvas.shape[1], canvas.shape[0]
        bitmap = np.asarray(cv2.resize(mask_api.decode(mask), size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
        covered = bitmap.astype(bool)
        canvas[covered] = np.round((1 - FILL) * plain[covered] + FILL * np.asarray(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            canvas[outline[:, 0, 1], outline[:, 0, 0]] = colour
    return Image.fromarray(canvas)

"""Resize predicted masks to pixels of the image file, and encode them as COCO run lengths (FPN §6).

Masks are pasted one by one, and only pixels inside a mask's window are computed. Therefore no bitmap of the whole image
is made, and the required memory does not depend on the number of proposals.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import RLE
from fpn_lightning.mask_structures import MaskProposals

Interpolation = Literal["bilinear", "nearest"]


def paste_masks(
    proposals: MaskProposals,
    geometry: Geometry,
    threshold: float = 0.2,
    interpolation: Interpolation = "bilinear",
) -> list[RLE]:
    """Paste the masks of one image; a pixel belongs to a mask if the probability at its centre is above a threshold.

    Args:
        proposals: proposals of one image.
        geometry: the cropping, resizing and mirroring that turned the image file into the network input.
        threshold: probability in (0, 1) above which a pixel is foreground (DEVIATIONS.md "Mask threshold").
        interpolation: how logits are interpolated between the centres of the window's m x m equal bins.

    Returns:
        One mask per proposal, in pixels of the image file. A mask is empty if its window is outside the image or no
        pixel is above the threshold.
    """
    logits = geometry.mirror_masks(proposals.mask_logits.float().cpu().numpy())
    windows = geometry.to_image(proposals.windows.double().cpu().numpy())
    threshold_logit = math.log(threshold / (1 - threshold))
    height, width = geometry.size_orig
    masks = []
    for mask, (x1, y1, x2, y2) in zip(logits, windows.tolist(), strict=True):
        by_column, left = _weights(x1, x2, width, mask.shape[1], interpolation)
        by_row, top = _weights(y1, y2, height, mask.shape[0], interpolation)
        columns = by_column @ mask.T @ by_row.T > threshold_logit  # (w, m) (m, m) (m, h); COCO counts runs by column
        masks.append(encode_columns(columns, top, left, height, width))
    return masks


def encode_columns(columns: NDArray[np.bool_], top: int, left: int, height: int, width: int) -> RLE:
    """Encode a mask that is 0 outside a rectangle; the result equals ``pycocotools.mask.encode`` of the whole mask.

    Args:
        columns: bool ``(w, h)``, the mask inside the rectangle, transposed.
        top: first row of the rectangle in the image.
        left: first column of the rectangle in the image.
        height: height of the image.
        width: width of the image.
    """
    framed = np.zeros((columns.shape[0], columns.shape[1] + 2), dtype=np.int8)
    framed[:, 1:-1] = columns
    # Each column of `framed` begins and ends with 0. Therefore the even entries of `changes` start a run of ones, and
    # the odd entries end one.
    column, row = np.nonzero(framed[:, 1:] != framed[:, :-1])
    changes = (left + column) * height + top + row
    # A run at the bottom of a column and a run at the top of the next column are merged into a single run.
    ends, starts = changes[1:-1:2], changes[2::2]
    kept = np.ones(len(changes), dtype=bool)
    kept[1:-1] = np.repeat(ends != starts, 2)
    counts = np.diff(np.concatenate(([0], changes[kept], [height * width]))).tolist()
    if counts[-1] == 0:
        counts.pop()
    coded = mask_api.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": coded["counts"].decode()}


def _weights(
    start: float, end: float, length: int, count: int, interpolation: Interpolation
) -> tuple[NDArray[np.float32], int]:
    """Compute weights for the interpolation from the centres of ``count`` equal bins of [start, end] to pixel centres.

    Returns:
        Weights ``(pixels, count)``, one row for each pixel whose centre is in [start, end] and one column for each bin;
        and the index of the first of these pixels.
    """
    first, last = (int(np.clip(np.ceil(bound - 0.5), 0, length)) for bound in (start, end))
    centres = np.arange(first, last) + 0.5
    # Distances of pixel centres from the centre of the first bin, in bin widths, clipped to [0, count - 1].
    places = np.clip((centres - start) / (end - start) * count - 0.5, 0, count - 1)
    if interpolation == "nearest":
        return np.eye(count, dtype=np.float32)[np.floor(places + 0.5).astype(np.int64)], first
    hats = np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)
    return hats.astype(np.float32), first

"""Target masks: the mask of an object inside a window of the network input (FPN §6, App. A).

Shape shorthand: P windows of one image, each divided into m x m equal bins.

The value of a bin is the fraction of its area that the object's mask covers. The mask is decoded from run lengths to a
bitmap in pixels of the image file. This bitmap is never resized, so the fraction is exact for every size of the network
input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import RLE

Bitmap = NDArray[np.uint8]


def mask_targets(
    masks: Sequence[RLE],
    objects: NDArray[np.int64],
    windows: NDArray[np.float64],
    geometry: Geometry,
    mask_size: int,
) -> NDArray[np.float32]:
    """Compute, for each bin of each window, the fraction that the window's object covers.

    Args:
        masks: masks of the image's objects, in pixels of the image file.
        objects: int64 ``(P,)`` the object of each window, an index into ``masks``.
        windows: float64 ``(P, 4)`` xyxy, network-input pixels; bins outside the image get 0.
        geometry: the cropping, resizing and mirroring that turned the image file into the network input.
        mask_size: m.

    Returns:
        float32 ``(P, m, m)`` in [0, 1], in the orientation of the network input, rows from top to bottom.
    """
    targets = np.zeros((len(objects), mask_size, mask_size), dtype=np.float32)
    windows_orig = geometry.to_image(windows)
    for chosen in np.unique(objects):
        bitmap = geometry.hide_unseen(np.asarray(mask_api.decode(masks[chosen]), dtype=np.uint8))
        for index in np.flatnonzero(objects == chosen):
            targets[index] = covered(bitmap, windows_orig[index], mask_size)
    return geometry.mirror_masks(targets)


def covered(bitmap: Bitmap, window: NDArray[np.float64], mask_size: int) -> NDArray[np.float64]:
    """Compute, for each of the m x m bins of a window, the fraction that the pixels of value 1 in a bitmap cover.

    Args:
        bitmap: uint8 ``(H, W)`` in {0, 1}; pixel (y, x) is the square from (x, y) to (x + 1, y + 1).
        window: float64 ``(4,)`` xyxy in the bitmap's pixels.
        mask_size: m.

    Returns:
        float64 ``(m, m)`` in [0, 1].
    """
    columns, left = _overlaps(window[0], window[2], bitmap.shape[1], mask_size)
    rows, top = _overlaps(window[1], window[3], bitmap.shape[0], mask_size)
    part = bitmap[top : top + rows.shape[1], left : left + columns.shape[1]]
    area = (window[2] - window[0]) * (window[3] - window[1]) / mask_size**2
    return rows @ part @ columns.T / area  # (m, h) (h, w) (w, m)


def _overlaps(start: float, end: float, length: int, count: int) -> tuple[NDArray[np.float64], int]:
    """Compute along one axis the length of the overlap of each of ``count`` equal bins of [start, end] with each pixel.

    Returns:
        Lengths ``(count, pixels)`` in px, one row for each bin and one column for each pixel that overlaps [start,
        end]; and the index of the first of these pixels.
    """
    first, last = (int(np.clip(bound, 0, length)) for bound in (np.floor(start), np.ceil(end)))
    edges = np.linspace(start, end, count + 1)[:, None]
    pixels = np.arange(first, last)
    overlaps = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.maximum(overlaps, 0), first

"""Draw a feature map as an image. A cell's colour shows how much its features differ from the median of the map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BGR = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)
VIRIDIS = np.asarray(_BGR[:, 0, ::-1], dtype=np.uint8)
"""Colour map, uint8 ``(256, 3)`` RGB: the more a cell differs from the median, the lighter its colour."""
_MIN_INNER = 8  # if both sides of a map have at least this many cells, the outermost cells do not affect the colours


@dataclass(frozen=True)
class FeatureMap:
    """One level of a feature pyramid, computed for one image.

    Attributes:
        name: name of the level, such as ``p2``.
        stride: network-input pixels from one cell to the next.
        strength: float32 ``(H, W)``: the absolute difference of each cell from the median of the channel, averaged over
            the channels. Cells that cover only padding are left out.
        size: height and width of the image in the network input, without padding.
    """

    name: str
    stride: int
    strength: NDArray[np.float32]
    size: tuple[int, int]


def feature_maps_of(maps: dict[str, Tensor], strides: dict[str, int], size: tuple[int, int]) -> list[FeatureMap]:
    """Compute for each feature map of an image how much each cell differs from the median of the map.

    Most of an image is background, and the maps of a trained model may have large values there. The median approximates
    the value of the background, so the difference from the median shows what a level responds to.

    Args:
        maps: ``{"p2": (d, H_2, W_2), ...}`` of one image.
        strides: stride of every map.
        size: height and width of the image in the network input, without padding.
    """
    result = []
    for name, features in maps.items():
        rows, columns = (-(-side // strides[name]) for side in size)
        cells = features.detach()[:, :rows, :columns].to("cpu", torch.float32)
        usual = cells.flatten(1).median(dim=1).values  # (d, H, W) -> (d,)
        strength = (cells - usual[:, None, None]).abs().mean(dim=0)  # (d, H, W) -> (H, W)
        result.append(FeatureMap(name, strides[name], strength.numpy(), size))
    return result


def paint(feature_map: FeatureMap, height: int, width: int) -> NDArray[np.uint8]:
    """Draw a feature map as a picture that shows the same area as the image. Each cell is a rectangle of one colour.

    Cells close to the median of the map are dark blue. The 5 % of the cells that differ most from the median are
    yellow. If the colour scale ended at the largest difference instead, most cells would be dark. If both sides of a
    map have at least 8 cells, the outermost cells do not affect the colour scale, because the outermost cells respond
    to the padding of the convolutions.

    Args:
        feature_map: the map.
        height: height of the picture, px.
        width: width of the picture, px.

    Returns:
        uint8 ``(height, width, 3)`` RGB.
    """
    strength = feature_map.strength
    inner = strength[1:-1, 1:-1] if min(strength.shape) >= _MIN_INNER else strength
    low, high = np.percentile(inner, (1, 95))
    level = np.clip((strength - low) / max(high - low, 1e-12), 0, 1)
    coloured = VIRIDIS[np.round(255 * level).astype(np.uint8)]
    rows, columns = (
        ((np.arange(length) + 0.5) * side / length / feature_map.stride).astype(np.int64).clip(max=cells - 1)
        for length, side, cells in zip((height, width), feature_map.size, strength.shape, strict=True)
    )
    return np.ascontiguousarray(coloured[rows][:, columns])

"""A feature map as an image: how strongly each cell responds, over the part of the image it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class FeatureMap:
    """One map of a pyramid for one image.

    Attributes:
        name: ``p2``.
        stride: network-input pixels from one cell to the next.
        strength: float32 ``(H, W)``, mean absolute value over the channels; cells of padding only are left out.
        size: height and width of the network input the map was computed of, without padding.
    """

    name: str
    stride: int
    strength: NDArray[np.float32]
    size: tuple[int, int]


def feature_maps_of(maps: dict[str, Tensor], strides: dict[str, int], size: tuple[int, int]) -> list[FeatureMap]:
    """What one image's maps look like.

    Args:
        maps: ``{"p2": (d, H_2, W_2), ...}``, of one image.
        strides: stride of every map.
        size: height and width of the image in the network input, without padding.
    """
    result = []
    for name, features in maps.items():
        rows, columns = (-(-side // strides[name]) for side in size)
        strength = features.detach().float().abs().mean(dim=0)[:rows, :columns]  # (d, H, W) -> (H, W)
        result.append(FeatureMap(name, strides[name], strength.to(torch.float32).cpu().numpy(), size))
    return result


def paint(feature_map: FeatureMap, height: int, width: int) -> NDArray[np.uint8]:
    """Paint a map over the whole image, every cell a rectangle of one colour.

    Dark blue is the weakest, yellow the strongest of this map, each taken at a hundredth of its cells: maps differ in
    magnitude, and one strong cell would leave nothing else to see.

    Args:
        feature_map: the map.
        height: of the painting, px.
        width: of the painting, px.

    Returns:
        uint8 ``(height, width, 3)`` RGB.
    """
    strength = feature_map.strength
    low, high = np.percentile(strength, (1, 99))
    level = np.clip((strength - low) / max(high - low, 1e-12), 0, 1)
    coloured = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    rows, columns = (
        ((np.arange(length) + 0.5) * side / length / feature_map.stride).astype(np.int64).clip(max=cells - 1)
        for length, side, cells in zip((height, width), feature_map.size, strength.shape, strict=True)
    )
    return np.ascontiguousarray(coloured[rows][:, columns])

"""Anchors: boxes of fixed sizes and shapes at every cell of every map (Faster R-CNN §3.1.1, FPN §4.1).

Shape shorthand: L maps, A_l anchors per cell of map l, H_l x W_l size of map l.

The anchors of the cell in row i and column j of a map with stride s are centred at x = j * s, y = i * s. Like
detectron2, this module does not round the corners of anchors.

torchvision's anchors differ in two ways (DEVIATIONS.md, "Anchors"). First, torchvision rounds the corners of anchors to
whole pixels. Second, torchvision computes the stride of a map as ``padded image side // map side``. For example, if an
image is padded to a height of 800 px, p6 has 13 rows of cells; the vertical stride of p6 is then 61 px in torchvision
and 64 px in this module. Set ``convention`` to ``torchvision`` for weights that were trained with torchvision's
anchors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fpn_lightning.errors import InputError

AnchorConvention = Literal["exact", "torchvision"]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return the anchors of one cell, centred at the origin.

    Args:
        sizes: √area of the anchors, px; every size is combined with every ratio.
        ratios: height / width of the anchors.

    Returns:
        float64 ``(len(sizes) * len(ratios), 4)`` xyxy, ordered by size, then by ratio.
    """
    sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in sizes for ratio in ratios]
    return torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides], dtype=torch.float64)


class AnchorGenerator(nn.Module):
    """Computes the anchors of all maps of a pyramid.

    Args:
        strides: stride of every map, finest first, ``{"p2": 4, ...}``.
        sizes: anchor sizes (√area, px) of every map, finest map first. In FPN, each map has anchors of one size; a
            pyramid with a single map has anchors of all sizes on this map.
        ratios: height / width of the anchors (FPN §4.1).
        convention: how corners of anchors and strides of maps are computed, ``exact`` or ``torchvision``; the docstring
            of this module explains the differences.

    Raises:
        InputError: if ``sizes`` does not have one list for each map.
    """

    def __init__(
        self,
        strides: dict[str, int],
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        convention: AnchorConvention = "exact",
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise InputError(
                f"model.detector.anchors.octaves has {len(sizes)} lists, but the pyramid has {len(strides)} maps "
                f"({', '.join(strides)}). Set octaves to one list for each map."
            )
        self.strides = dict(strides)
        self.convention = convention
        self.num_anchors = [len(group) * len(ratios) for group in sizes]
        for name, group in zip(strides, sizes, strict=True):
            cell = cell_anchors(group, ratios)
            cell = cell.round() if convention == "torchvision" else cell
            self.register_buffer(f"cell_{name}", cell.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> Self:
        """Move the module to a device or a dtype, but keep the anchors in at least float32.

        Rounding to half precision would shift anchors by whole pixels.
        """

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype.itemsize >= 4 else tensor.to(moved.device)

        return super()._apply(at_least_float32, *args)

    def forward(self, map_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Compute the anchors of every map.

        Args:
            map_sizes: height and width ``(H_l, W_l)`` of every map in cells, in the order of ``strides``.

        Returns:
            L tensors ``(H_l * W_l * A_l, 4)`` xyxy, network-input pixels, ordered by row, then column, then anchor
            of the cell. Anchors that extend outside the image are kept (FPN §4.1).
        """
        anchors = []
        finest = next(iter(self.strides.values()))
        padded_height, padded_width = (side * finest for side in map_sizes[0])
        for (name, stride), (height, width) in zip(self.strides.items(), map_sizes, strict=True):
            cell = self.get_buffer(f"cell_{name}")
            stride_y, stride_x = stride, stride
            if self.convention == "torchvision":
                stride_y, stride_x = padded_height // height, padded_width // width
            x = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride_x
            y = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride_y
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=2)
            # (H, W, 1, 4) + (A, 4) -> (H, W, A, 4) -> (H * W * A, 4)
            anchors.append((shifts[:, :, None] + cell).reshape(-1, 4))
        return anchors

"""RoI pooling from the pyramid level that fits the size of each region (FPN §4.2, Eq. 1).

Shape shorthand: N images, d channels of every map, R regions (RoIs) of the whole batch, S x S size of a pooled region.

The paper uses RoI pooling (Fast R-CNN §2.1). RoIAlign (Mask R-CNN §3), which later implementations use, is an option
(DEVIATIONS.md "RoI operation").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from fpn_lightning.errors import InputError
from fpn_lightning.models.pyramids import level_of

# Rounding coordinates of up to 1333 px to float32 changes log2(size) of a square box of 224 px by less than 1.5e-6.
# Without a tolerance, the level of a box of exactly 224 px would depend on the position of the box. The tolerance
# lowers the smallest size of a box on level 4 by 0.0016 px.
LEVEL_TOLERANCE = 1e-5  # octaves

PoolingOp = Literal["pool", "align"]


def assign_boxes_to_levels(
    boxes: Tensor, min_level: int, max_level: int, canonical_size: float = 224, canonical_level: int = 4
) -> Tensor:
    """Compute the level from which each region is pooled: ``k = floor(k0 + log2(sqrt(w h) / 224))`` (FPN Eq. 1).

    Args:
        boxes: ``(R, 4)`` xyxy, network-input pixels. A box without area gets ``min_level``.
        min_level: the finest level of the result; boxes that are too small for this level get it, too.
        max_level: the coarsest level of the result; boxes that are too large for this level get it, too.
        canonical_size: smallest size √(wh), px, of boxes on ``canonical_level`` (224, the size of ImageNet's crops).
        canonical_level: k0 of FPN Eq. 1 (4, because the single-map baseline pools from C4).

    Returns:
        int64 ``(R,)`` in ``[min_level, max_level]``.
    """
    corners = boxes.double() if boxes.device.type != "mps" else boxes  # MPS has no float64
    sizes = (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    octaves = torch.log2(sizes / canonical_size) + canonical_level + LEVEL_TOLERANCE  # -inf for a box without area
    return octaves.clamp(min_level, max_level).floor().long()


class RoIPooler(nn.Module):
    """Pools every region to S x S values from the map that fits the region's size (FPN Eq. 1).

    The pyramid declares the strides of its maps. Strides inferred from the sizes of maps would be wrong for odd image
    sizes.

    Args:
        strides: stride of each map of the pyramid, finest first, ``{"p2": 4, ...}``.
        resolution: S.
        canonical_size: smallest size √(wh), px, of boxes that are pooled from ``canonical_level`` (FPN Eq. 1).
        op: ``pool`` (maximum over quantised bins) or ``align`` (bilinear samples).
        canonical_level: k0 of FPN Eq. 1.
        max_level: the coarsest level from which regions are pooled (5, because only the RPN reads p6, FPN §4.1).
        sampling_ratio: number of samples of ``align`` along each axis of a bin. The value 0 means one sample for each
            map cell that the bin spans, as in detectron2.
        aligned: whether ``align`` puts pixel centres at 0.5 (detectron2) instead of 0 (Detectron, torchvision).

    Raises:
        InputError: if the pyramid has no map to pool from or skips a level, or if ``canonical_size`` is not positive.
    """

    def __init__(
        self,
        strides: dict[str, int],
        resolution: int = 7,
        canonical_size: float = 224,
        op: PoolingOp = "pool",
        canonical_level: int = 4,
        max_level: int = 5,
        sampling_ratio: int = 0,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.names = [name for name in strides if level_of(name) <= max_level]
        levels = [level_of(name) for name in self.names]
        if not levels or levels != list(range(levels[0], levels[0] + len(levels))):
            raise InputError(
                f"model.detector.pyramid: regions are pooled from consecutive levels up to p{max_level}, but the "
                f"pyramid's maps are {', '.join(strides)}. Use another pyramid, or set model.detector.roi_heads to "
                "null."
            )
        if canonical_size <= 0:
            raise InputError(f"model.detector.scale.canonical_size is {canonical_size}; it has to be positive.")
        self.min_level, self.max_level = levels[0], levels[-1]
        self.strides = [strides[name] for name in self.names]
        self.resolution = resolution
        self.op = op
        self.canonical_size = canonical_size
        self.canonical_level = canonical_level
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def levels_of(self, boxes: Tensor) -> Tensor:
        """Compute the level k from which each box ``(R, 4)`` is pooled: int64 ``(R,)``."""
        return assign_boxes_to_levels(boxes, self.min_level, self.max_level, self.canonical_size, self.canonical_level)

    def forward(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pool the regions of a batch.

        Args:
            features: ``{"p2": (N, d, H_2, W_2), ...}``; maps coarser than ``max_level`` are ignored.
            boxes: N tensors ``(R_n, 4)`` xyxy, network-input pixels.

        Returns:
            ``(R, d, S, S)``, in the order of images and boxes; R is the sum of the R_n. A map without regions gets a
            gradient of zeros, because DDP waits for the gradient of every layer.
        """
        every = torch.cat(list(boxes))
        image = torch.cat([of_image.new_full((len(of_image), 1), n) for n, of_image in enumerate(boxes)])
        regions = torch.cat((image, every), dim=1)  # (R, 5)
        levels = self.levels_of(every)
        in_use = torch.arange(self.min_level, self.max_level + 1, device=levels.device)
        counts = (levels[:, None] == in_use).sum(dim=0).tolist()  # the only place where the host waits for the device
        by_level = levels.argsort(stable=True)
        pooled = [
            self._pool(features[name], regions[places], stride)
            for name, stride, places in zip(self.names, self.strides, by_level.split(counts), strict=True)
        ]
        # The pooled regions are sorted by level. Restore the order of the boxes.
        return torch.cat(pooled)[by_level.argsort()]

    def _pool(self, feature: Tensor, regions: Tensor, stride: int) -> Tensor:
        # Pool in at least float32, because half precision would move the corners of boxes by pixels.
        dtype = torch.promote_types(feature.dtype, torch.float32)
        with torch.autocast(feature.device.type, enabled=False):
            inputs = (feature.to(dtype), regions.to(dtype), self.resolution, 1 / stride)
            if self.op == "pool":
                return roi_pool(*inputs).to(feature.dtype)
            return roi_align(*inputs, self.sampling_ratio, aligned=self.aligned).to(feature.dtype)

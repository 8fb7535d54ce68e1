"""Small batches for model tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.ops import box_convert

from fpn_lightning.data.coco.segmentations import compressed_rle
from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import RLE, GroundTruth
from fpn_lightning.structures import ImageBatch, Proposals, Targets


def image_batch(sizes: Sequence[tuple[int, int]], seed: int = 0, divisor: int = 32) -> ImageBatch:
    """Noise images of the given (height, width), padded together."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for index, (h, w) in enumerate(sizes):
        pixels[index, :, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
    return ImageBatch(pixels, torch.tensor(sizes), torch.arange(len(sizes)), whole(sizes))


def whole(sizes: Iterable[tuple[int, int]]) -> list[Geometry]:
    """Geometries of image files that become network inputs of the same (height, width)."""
    return [Geometry((height, width), (height, width)) for height, width in sizes]


def feature_maps(
    strides: dict[str, int], count: int = 2, height: int = 64, width: int = 96, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Random maps of 6 channels."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(count, 6, height // stride, width // stride, generator=generator, dtype=dtype)
        for name, stride in strides.items()
    }


def check_that_a_batch_may_be_split(module: nn.Module, count: int, losses: Callable[[slice], dict[str, Any]]) -> None:
    """Check that the gradient of ``count`` images is the mean of those of its parts, whose losses are given."""

    def gradient(size: int) -> torch.Tensor:
        module.zero_grad()
        for start in range(0, count, size):
            (sum(losses(slice(start, start + size)).values()) * size / count).backward()
        return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])

    whole = gradient(count)
    assert whole.abs().max() > 0
    for size in (1, 2):
        if count % size == 0:
            assert torch.allclose(whole, gradient(size), atol=1e-7)


def targets(boxes: Sequence[Sequence[float]]) -> Targets:
    """Objects with the given xyxy boxes, all of class 0."""
    return labelled(boxes, [0] * len(boxes))


def labelled(boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> Targets:
    """Objects with the given xyxy boxes and classes."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Targets(tensor, torch.tensor(labels, dtype=torch.int64))


def annotated(target: Targets, image_id: int = 0) -> GroundTruth:
    """The ground truth of objects whose image file is as large as the network input; no crowds."""
    boxes = box_convert(target.boxes, "xyxy", "xywh").double().numpy()
    is_crowd = np.zeros(len(boxes), dtype=bool)
    return GroundTruth(
        image_id, boxes, boxes[:, 2] * boxes[:, 3], is_crowd, target.labels.numpy(), masks=list(target.masks)
    )


def box_masks(boxes: torch.Tensor, height: int, width: int) -> list[RLE]:
    """Masks that fill the boxes ``(., 4)``, in an image of the given size."""
    polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    return [compressed_rle(polygon, height, width) for polygon in polygons]


def proposals(boxes: Sequence[Sequence[float]] | torch.Tensor) -> Proposals:
    """Proposals with the given xyxy boxes, best first."""
    tensor = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Proposals(tensor, -torch.arange(float(len(tensor))), torch.full((len(tensor),), 2))


def random_proposals(count: int, height: int, width: int, seed: int = 0) -> Proposals:
    """Random proposals of all sizes in an image."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([width, height], dtype=torch.float32)
    ends = torch.rand(2, count, 2, generator=generator) * limit
    return proposals(torch.cat((ends.amin(dim=0), ends.amax(dim=0)), dim=1))

"""Small batches for model tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fpn_lightning.structures import ImageBatch, Proposals, Targets


def image_batch(sizes: Sequence[tuple[int, int]], seed: int = 0, divisor: int = 32) -> ImageBatch:
    """Noise images of the given (height, width), padded together."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for index, (h, w) in enumerate(sizes):
        pixels[index, :, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
    shape = torch.tensor(sizes)
    return ImageBatch(pixels, shape, shape, torch.arange(len(sizes)), torch.zeros(len(sizes), dtype=torch.bool))


def targets(boxes: Sequence[Sequence[float]]) -> Targets:
    """Ground truth with the given xyxy boxes, all of class 0."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    xywh = torch.cat((tensor[:, :2], tensor[:, 2:] - tensor[:, :2]), dim=1).double()
    count = len(tensor)
    zeros = torch.zeros(count, dtype=torch.int64)
    return Targets(
        boxes=tensor,
        labels=zeros,
        indices=torch.arange(count),
        boxes_xywh_orig=xywh,
        areas_orig=xywh[:, 2] * xywh[:, 3],
        is_crowd=torch.zeros(count, dtype=torch.bool),
        labels_orig=zeros,
        annotation_ids=torch.arange(1, count + 1),
    )


def labelled(boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> Targets:
    """Ground truth with the given xyxy boxes and classes."""
    target = targets(boxes)
    target.labels = target.labels_orig = torch.tensor(labels)
    return target


def proposals(boxes: Sequence[Sequence[float]] | torch.Tensor) -> Proposals:
    """Proposals with the given xyxy boxes, best first."""
    tensor = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Proposals(tensor, -torch.arange(float(len(tensor))), torch.full((len(tensor),), 2))


def random_proposals(count: int, height: int, width: int, seed: int = 0) -> Proposals:
    """Proposals of all sizes and places in an image."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([width, height], dtype=torch.float32)
    ends = torch.rand(2, count, 2, generator=generator) * limit
    return proposals(torch.cat((ends.amin(dim=0), ends.amax(dim=0)), dim=1))

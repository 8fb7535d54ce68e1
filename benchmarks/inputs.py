"""Inputs of the models in benchmarks: images of noise and random objects, the same at every call."""

from __future__ import annotations

import torch

from fpn_lightning.geometry import Geometry
from fpn_lightning.structures import ImageBatch, Targets

NUM_OBJECTS = 7  # objects per image, as in COCO


def noise(count: int, size: tuple[int, int], size_divisor: int) -> ImageBatch:
    """Return images of noise, the same at every call, padded as by the data module."""
    generator = torch.Generator().manual_seed(0)
    padded = [-(-side // size_divisor) * size_divisor for side in size]
    pixels = torch.zeros(count, 3, *padded, dtype=torch.uint8)
    shape = (count, 3, *size)
    pixels[:, :, : size[0], : size[1]] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    sizes = torch.tensor(size).expand(count, 2).clone()
    return ImageBatch(pixels, sizes, torch.arange(count), [Geometry(size, size)] * count)


def objects(size: tuple[int, int], count: int = NUM_OBJECTS) -> Targets:
    """Return random objects of all sizes for an image, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(2, count, 2, generator=generator)
    boxes = torch.cat((ends.amin(dim=0), ends.amax(dim=0)), dim=1) * torch.tensor([size[1], size[0]] * 2)
    return Targets(boxes, torch.zeros(count, dtype=torch.int64))

"""From a model and a batch to the pictures of its images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fpn_lightning.drawing.feature_maps import feature_maps_of
from fpn_lightning.drawing.sheet import draw_sheet
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch, ImageBatch, ProposalsOrig, Targets


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every part is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def ground_truth_of(target: Targets) -> NDArray[np.float64]:
    """Objects without crowd regions: float64 ``(G, 4)`` xyxy, pixels of the image file."""
    boxes = target.boxes_xywh_orig[~target.is_crowd].numpy()
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def draw_image(
    stage: RPNStage,
    batch: Batch,
    index: int,
    result: ProposalsOrig,
    pixels: NDArray[np.uint8],
    title: str,
    top_k: int = 30,
) -> Image.Image:
    """The picture of one image of a batch: its proposals, and the maps of a forward pass of its own.

    Args:
        stage: the model, in evaluation mode.
        batch: on the model's device.
        index: which image.
        result: what the model predicted for it.
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        title: a line above the picture.
        top_k: how many proposals are drawn.
    """
    images = _only(batch.images, index)
    maps = {name: features[0] for name, features in stage.feature_maps(images).items()}
    height, width = images.sizes[0].tolist()
    truth = ground_truth_of(batch.targets[index]) if batch.targets else None
    return draw_sheet(
        title, pixels, result, feature_maps_of(maps, stage.pyramid.strides, (height, width)), truth, top_k
    )


def _only(images: ImageBatch, index: int) -> ImageBatch:
    rows = slice(index, index + 1)
    return ImageBatch(
        images.pixels[rows], images.sizes[rows], images.sizes_orig[rows], images.image_ids[rows], images.flipped[rows]
    )

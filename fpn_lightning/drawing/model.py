"""From a detector and images to pictures, with the forward passes that pictures take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.dataset import COCODataset, Collate
from fpn_lightning.drawing.boxes import LONGEST
from fpn_lightning.drawing.feature_maps import feature_maps_of
from fpn_lightning.drawing.marks import Result, marks_of
from fpn_lightning.drawing.sheet import draw_sheet
from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.structures import Batch


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


def draw_result(
    detector: Detector,
    categories: Categories,
    batch: Batch,
    index: int,
    result: Result,
    pixels: NDArray[np.uint8],
    title: str,
    top_k: int,
    longest: int = LONGEST,
) -> Image.Image:
    """The picture of one image of a batch: what was found in it, and the maps, by a forward pass of their own.

    Args:
        detector: in evaluation mode.
        categories: name the labels of detections.
        batch: on the detector's device.
        index: which image.
        result: what the model predicted for it.
        pixels: uint8 ``(H, W, 3)`` RGB, the image file.
        title: a line above the picture; the size of the image is added.
        top_k: how many boxes are drawn.
        longest: most px of the image's longer side in the picture.
    """
    images = batch.images.only(index)
    truth = batch.ground_truths[index] if batch.ground_truths else None
    maps = {name: features[0] for name, features in detector(images).items()}
    levels = [int(name[1:]) for name in maps]
    return draw_sheet(
        f"{title}, {pixels.shape[1]} x {pixels.shape[0]} px",
        pixels,
        marks_of(result, top_k, levels, categories.names),
        feature_maps_of(maps, detector.pyramid.strides, images.geometries[0].size),
        None if truth is None else truth.boxes_orig[~truth.is_crowd],
        longest,
    )


def draw_example(
    stage: BaseStage,
    dataset: COCODataset,
    collate: Collate,
    place: int,
    device: torch.device,
    title: str,
    top_k: int,
    longest: int = LONGEST,
) -> Image.Image:
    """The picture of one image of a split, read and predicted for the purpose.

    Args:
        stage: the model, in evaluation mode.
        dataset: the split.
        collate: makes a batch of its one image.
        place: of the image in the split.
        device: of the model.
        title: a line above the picture; id and size of the image are added.
        top_k: how many boxes are drawn.
        longest: most px of the image's longer side in the picture.
    """
    sample = dataset[place, 0]
    batch = collate([sample]).to(device)
    (result,) = stage.predict_step(batch, 0)
    pixels = dataset.pixels_orig(sample.image_id)
    return draw_result(
        stage.detector, stage.categories, batch, 0, result, pixels, f"{title}, image {sample.image_id}", top_k, longest
    )

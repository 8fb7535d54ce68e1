"""Draw predictions and ground truth on an image. Proposals are coloured by pyramid level, detections by category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from fpn_lightning.ground_truth import RLE, GroundTruth
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.structures import DetectionsOrig, ProposalsOrig

Colour = tuple[int, int, int]
Prediction = ProposalsOrig | DetectionsOrig | MaskProposalsOrig
# The colours of Okabe and Ito, which people with any colour vision can distinguish.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
MAX_SIDE = 960  # px: maximum length of the longer side of a drawn image
LINE = 2  # px: width of a box's outline
LABEL = 14  # px: height of a label
DASH = 4  # px: length of a dash in the outline of a ground-truth box
FILL = 0.45  # opacity of a mask


@dataclass(frozen=True)
class DrawnImage:
    """An image with its predictions and ground truth.

    Attributes:
        pixels: uint8 ``(3, H, W)`` RGB, the scaled image.
        heading: number and kind of the predictions.
        legend: text and colour of each level; empty for detections, because categories are written beside the boxes.
    """

    pixels: Tensor
    heading: str
    legend: list[tuple[str, Colour]]


def level_colour(level: int) -> Colour:
    """Return the RGB colour of a pyramid level. Level 2 has the first colour; the colours repeat after seven levels."""
    return COLOURS[(level - 2) % len(COLOURS)]


def draw_image(
    image: NDArray[np.uint8],
    prediction: Prediction,
    top_k: int,
    levels: Sequence[int],
    category_names: Sequence[str],
    truth: GroundTruth | None = None,
) -> DrawnImage:
    """Draw the best predictions and the ground truth of an image. The best prediction is drawn on top.

    Args:
        image: uint8 ``(H, W, 3)`` RGB, the image file.
        prediction: predictions for the image, best first.
        top_k: number of predictions to draw.
        levels: levels of the model's maps. The legend shows every level of the model, even a level without proposals.
        category_names: name of each label. A label without a name is written as its number, such as ``class 7``.
        truth: the ground-truth objects, or None if the ground truth is not known. Crowd regions are not drawn. If the
            predictions are detections, an object's category is written below the object.
    """
    scale = drawing_scale(image.shape[:2])
    pixels = torch.from_numpy(resize(image, scale)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    names: list[str] | None = None
    legend: list[tuple[str, Colour]] = []
    if isinstance(prediction, DetectionsOrig):
        labels = prediction.labels[:top_k].tolist()
        colours = [COLOURS[label % len(COLOURS)] for label in labels]
        scores = prediction.scores[:top_k].tolist()
        names = [f"{name} {score:.2f}" for name, score in zip(_named(labels, category_names), scores, strict=True)]
        kind = "detections"
    else:
        drawn = prediction.levels[:top_k].tolist()
        colours = [level_colour(level) for level in drawn]
        legend = [(f"p{level}: {drawn.count(level)}", level_colour(level)) for level in sorted({*levels, *drawn})]
        kind = "proposals by level"
    if isinstance(prediction, MaskProposalsOrig):
        pixels = draw_masks(pixels, prediction.masks[:top_k], colours)
        kind = "segment proposals by level"
    else:
        pixels = draw_boxes(pixels, prediction.boxes_orig[:top_k] * scale, colours, names)
    if truth is not None:
        single = ~truth.is_crowd
        names = None if names is None else _named(truth.labels[single].tolist(), category_names)
        pixels = draw_ground_truth(pixels, torch.from_numpy(truth.boxes_orig[single]) * scale, names)
    return DrawnImage(pixels, f"top {len(colours)} {kind}", legend)


def _named(labels: list[int], names: Sequence[str]) -> list[str]:
    return [names[label] if label < len(names) else f"class {label}" for label in labels]


def drawing_scale(size: tuple[int, ...]) -> float:
    """Return the factor by which an image is scaled: a whole number, or below 1 if a side exceeds ``MAX_SIDE``.

    The longer side of the scaled image is between ``MAX_SIDE / 2`` and ``MAX_SIDE``, so that lines are thin
    compared with the objects.

    Args:
        size: height and width of the image file, px.
    """
    longer, least = max(size), MAX_SIDE // 2
    return float(-(-least // longer)) if longer < least else min(1.0, MAX_SIDE / longer)


def resize(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Scale an image, uint8 ``(H, W, 3)``. Enlarging repeats pixels; reducing averages pixels."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def draw_boxes(
    pixels: Tensor, boxes: Tensor, colours: Sequence[Colour], names: Sequence[str] | None = None, line: int = LINE
) -> Tensor:
    """Draw the outlines and names of boxes on a copy of an image. Where boxes overlap, the first box is on top.

    Args:
        pixels: uint8 ``(3, H, W)`` RGB.
        boxes: ``(B, 4)`` xyxy, in pixels of the scaled image.
        colours: one per box.
        names: one per box, or None.
        line: width of the outlines, px.
    """
    if not len(boxes):  # avoids torchvision's warning about missing boxes
        return pixels
    corners = boxes.round().long()
    corners[:, 2:] -= 1  # the pixel (x2, y2) is outside the box, but torchvision would draw this pixel
    height, width = pixels.shape[1:]
    corners = corners.clamp(torch.zeros(4, dtype=torch.long), torch.tensor([width, height, width, height]) - 1)
    corners[:, 2:] = corners[:, 2:].maximum(corners[:, :2])
    corners, from_last = corners.flip(0), list(reversed(colours))
    pixels = draw_bounding_boxes(pixels, corners, colors=from_last, width=line)
    if names is None:
        return pixels
    # Labels go above the boxes. By default, torchvision writes labels inside the boxes and so hides small objects.
    above = (corners - torch.tensor([0, LABEL, 0, LABEL])).clamp(min=0)
    labels = list(reversed(names))
    return draw_bounding_boxes(pixels, above, labels, from_last, width=0, fill_labels=True)


def draw_ground_truth(pixels: Tensor, boxes: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Draw the outlines of ground-truth boxes as white and black dashes, one pixel wide and visible on any image.

    The arguments are the same as those of :func:`draw_boxes`. Names are written below the ground-truth boxes, because
    the names of predictions are written above the predicted boxes.
    """
    outlines = draw_boxes(torch.zeros_like(pixels), boxes, [(255, 255, 255)] * len(boxes), line=1) > 0
    y, x = torch.meshgrid(torch.arange(pixels.shape[1]), torch.arange(pixels.shape[2]), indexing="ij")
    dashes = (x + y) // DASH % 2 * 255
    pixels = torch.where(outlines, dashes.to(torch.uint8), pixels)
    if not names:
        return pixels
    below = boxes[:, [0, 3, 2, 3]].round().long()
    limits = torch.tensor([pixels.shape[2] - 1, pixels.shape[1] - LABEL] * 2)
    below = below.clamp(torch.zeros(4, dtype=torch.long), limits.clamp(min=0))
    return draw_bounding_boxes(pixels, below, list(names), "white", width=0, fill_labels=True)


def draw_masks(pixels: Tensor, masks: Sequence[RLE], colours: Sequence[Colour]) -> Tensor:
    """Draw filled masks with outlines on a copy of the scaled image (FPN §6, Fig. 4).

    The masks have the size of the image file and are sorted best first. Where masks overlap, the first mask is visible.
    """
    if not masks:  # avoids torchvision's warning about missing masks
        return pixels
    height, width = pixels.shape[1:]
    bitmaps = [cv2.resize(mask_api.decode(mask), (width, height), interpolation=cv2.INTER_NEAREST) for mask in masks]
    covered = torch.from_numpy(np.stack(bitmaps)).bool()  # (M, H, W)
    visible = covered & (covered.cumsum(dim=0, dtype=torch.int32) == 1)
    edges = visible & (max_pool2d((~visible).half(), 3, stride=1, padding=1) > 0)
    pixels = draw_segmentation_masks(pixels, visible, FILL, list(colours))
    return draw_segmentation_masks(pixels, edges, 1.0, list(colours))

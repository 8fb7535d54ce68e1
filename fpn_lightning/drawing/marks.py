"""What is drawn on an image for each kind of result: the one place where kinds differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.drawing.boxes import Colour, cycled_colour, level_colour
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.structures import RLE, DetectionsOrig, ProposalsOrig

Result = ProposalsOrig | DetectionsOrig | MaskProposalsOrig


@dataclass(frozen=True)
class Marks:
    """Boxes or masks as they are drawn.

    Attributes:
        heading: a line that says what they are.
        boxes_orig: float64 ``(B, 4)`` xyxy, pixels of the image file; the first is drawn on top.
        masks: in place of boxes, of the image file's size; the first is drawn on top.
        colours: one for each box or mask.
        names: written at each box; empty where nothing is.
        legend: what colours stand for, in the order shown.
    """

    heading: str
    boxes_orig: NDArray[np.float64]
    masks: list[RLE]
    colours: list[Colour]
    names: list[str]
    legend: list[tuple[str, Colour]]


def marks_of(result: Result, top_k: int, levels: Sequence[int], category_names: Sequence[str]) -> Marks:
    """The best of a result: proposals and masks by level, detections by category.

    Args:
        result: of one image.
        top_k: how many.
        levels: of the model's maps, in the legend even if none of the proposals is of them.
        category_names: by label; a label without a name is written as ``class 7``.
    """
    if isinstance(result, ProposalsOrig):
        found = result.levels[:top_k].tolist()
        return Marks(
            heading=f"top {len(found)} proposals by level",
            boxes_orig=result.boxes_orig[:top_k].numpy(),
            masks=[],
            colours=[level_colour(level) for level in found],
            names=[],
            legend=_legend(found, levels),
        )
    if isinstance(result, MaskProposalsOrig):
        found = result.levels[:top_k].tolist()
        return Marks(
            heading=f"top {len(found)} segment proposals by level",
            boxes_orig=np.zeros((0, 4)),
            masks=result.masks[:top_k],
            colours=[level_colour(level) for level in found],
            names=[],
            legend=_legend(found, levels),
        )
    return _detections(result, top_k, category_names)


def _legend(found: list[int], levels: Sequence[int]) -> list[tuple[str, Colour]]:
    return [(f"p{level}: {found.count(level)}", level_colour(level)) for level in sorted({*levels, *found})]


def _detections(detections: DetectionsOrig, top_k: int, category_names: Sequence[str]) -> Marks:
    labels, scores = detections.labels[:top_k].tolist(), detections.scores[:top_k].tolist()
    names = [category_names[label] if label < len(category_names) else f"class {label}" for label in labels]
    return Marks(
        heading=f"top {len(labels)} detections",
        boxes_orig=detections.boxes_orig[:top_k].numpy(),
        masks=[],
        colours=[cycled_colour(label) for label in labels],
        names=[f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)],
        legend=[],  # the names stand at the boxes
    )

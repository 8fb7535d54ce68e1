"""Annotations of generated images in COCO's format. pycocotools decodes exactly the masks that were drawn."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.data.synthetic.scene import SceneObject
from fpn_lightning.data.synthetic.shapes import CATEGORIES


def image_id(index: int) -> int:
    """Return the id of image ``index`` of a split. Ids are positive and have gaps, like COCO's ids."""
    return 3 * index + 1


def file_name(key: int) -> str:
    """Return the file name of the image with id ``key``: 12 digits and ``.jpg``, as in COCO."""
    return f"{key:012d}.jpg"


def instances(
    description: str, size: int, image_ids: list[int], annotations: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """Make the content of a split's annotation file, with COCO's sections and fields.

    Annotation ids start at 1, because evaluators read an annotation id of 0 as "not matched". ``annotations`` has one
    list per image, with annotations from :func:`to_annotation`.
    """
    images: list[dict[str, Any]] = []
    numbered: list[dict[str, Any]] = []
    for key, of_image in zip(image_ids, annotations, strict=True):
        images.append({"license": 1, "file_name": file_name(key), "height": size, "width": size, "id": key})
        for annotation in of_image:
            numbered.append({**annotation, "image_id": key, "id": len(numbered) + 1})
    return {
        "info": {"description": description, "version": "1.0"},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": numbered,
        "categories": [{"supercategory": c.supercategory, "id": c.id, "name": c.name} for c in CATEGORIES],
    }


def to_annotation(item: SceneObject) -> dict[str, Any]:
    """Make the annotation of one object, without its id and its image id.

    The mask of a crowd region becomes an uncompressed run-length code, as in COCO's files. Any other mask becomes one
    polygon per part, provided that pycocotools decodes these polygons to exactly this mask. If not, the mask becomes a
    compressed run-length code. This happens to a mask with holes, or with parts that touch at a corner.

    Returns:
        ``segmentation``, ``area`` (px², of the mask), ``iscrowd``, ``bbox`` (tight around the mask, x y width height)
        and ``category_id``.
    """
    code = mask_api.encode(np.asfortranarray(item.mask))
    return {
        "segmentation": run_lengths(item.mask) if item.is_crowd else _exact_segmentation(item.mask, code),
        "area": float(mask_api.area(code)),
        "iscrowd": int(item.is_crowd),
        "bbox": mask_api.toBbox(code).tolist(),
        "category_id": item.category_id,
    }


def _exact_segmentation(mask: NDArray[np.uint8], code: dict[str, Any]) -> list[list[int]] | dict[str, Any]:
    height, width = mask.shape
    polygons = outlines(mask)
    if polygons:
        decoded = mask_api.merge(mask_api.frPyObjects(polygons, height, width))
        if decoded["counts"] == code["counts"]:
            return polygons
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def run_lengths(mask: NDArray[np.uint8]) -> dict[str, Any]:
    """Encode a mask ``(H, W)`` as COCO's uncompressed run-length code: column by column, zeros first."""
    columns = np.concatenate(([0], mask.ravel(order="F"), [0]))
    changes = np.flatnonzero(np.diff(columns))
    edges = np.concatenate(([0], changes, [mask.size]))
    counts = np.diff(edges)
    if counts[-1] == 0:
        counts = counts[:-1]
    return {"size": list(mask.shape), "counts": counts.tolist()}


def outlines(mask: NDArray[np.uint8]) -> list[list[int]]:
    """Trace the outlines of a mask and its holes along the edges of pixels.

    Each closed outline is a flat list x, y, x, y, ... If two pixels of the mask touch only at a corner, the outline is
    not unique, and the result is an empty list.
    """
    left, top, width, height = cv2.boundingRect(mask)
    framed = np.pad(mask[top : top + height, left : left + width], 1)
    above_left, above_right = framed[:-1, :-1], framed[:-1, 1:]
    below_left, below_right = framed[1:, :-1], framed[1:, 1:]
    around = above_left + above_right + below_left + below_right
    if ((around == 2) & (above_left == below_right)).any():
        return []
    # At each corner of an outline, one horizontal and one vertical edge meet. The corners with the same y, taken in
    # pairs from left to right, are therefore the ends of horizontal edges. If the corners with the same x are sorted
    # from top to bottom, the first and second are the ends of one vertical edge, the third and fourth of the next, and
    # so on.
    y, x = np.nonzero(around & 1)
    by_column = np.lexsort((y, x)).tolist()
    vertical = [0] * len(by_column)
    for first, second in zip(by_column[::2], by_column[1::2], strict=True):
        vertical[first], vertical[second] = second, first
    xs, ys, open_corners = (x + left).tolist(), (y + top).tolist(), set(range(len(vertical)))
    loops = []
    while open_corners:
        start = corner = min(open_corners)
        loop: list[int] = []
        while not loop or corner != start:
            across = corner ^ 1
            open_corners -= {corner, across}
            loop += (xs[corner], ys[corner], xs[across], ys[across])
            corner = vertical[across]
        loops.append(loop)
    return loops

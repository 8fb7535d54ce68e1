"""Choose the images to train on: all images, or only the images with an object that can be trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from fpn_lightning.data.coco.boxes import boxes_fault
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.coco.labels import PLURAL
from fpn_lightning.data.transforms import ResizeAndFlip, large_enough
from fpn_lightning.errors import InputError, listed


def training_images(
    index: COCOIndex,
    transform: ResizeAndFlip,
    skip_images_without_objects: bool = True,
    limit: int | None = None,
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Choose the images to train on. Count and log the objects and images that are left out.

    Args:
        index: the annotations.
        transform: gives the size of each network input. Objects are measured at the size used in evaluation.
        skip_images_without_objects: leave out images without an object to train on.
        limit: largest number of images to train on. The images with the lowest ids are kept; None: all images.

    Returns:
        ``(places, counts)``. ``places`` is int64: positions of the chosen images in the index, ascending. ``counts``
        has the number of objects left out, by reason: those of :func:`unusable_objects`, and ``crowd``. The number of
        images left out is ``counts["images_without_objects"]`` plus, if ``limit`` leaves out images,
        ``counts["images_over_the_limit"]``.

    Raises:
        InputError: the split has no annotations, or no object to train on.
    """
    if not index.has_annotations:
        raise InputError(f"{index.annotation_file} has no annotations to train on; choose another data.train_split")
    kinds, kind_of = np.unique(index.sizes, axis=0, return_inverse=True)
    sizes = np.array([transform.evaluation_geometry((height, width)).size for height, width in kinds.tolist()])
    reasons = unusable_objects(index, sizes[kind_of.reshape(-1)], transform.min_box_size)
    usable = ~index.objects.is_crowd & ~np.any(list(reasons.values()), axis=0)
    counts = {reason: int(objects.sum()) for reason, objects in reasons.items()}
    counts["crowd"] = int(index.objects.is_crowd.sum())
    if not usable.any():
        raise InputError(_nothing_usable(index, counts))
    has_objects = np.bincount(index.object_places[usable], minlength=len(index)) > 0
    places = np.flatnonzero(has_objects) if skip_images_without_objects else np.arange(len(index))
    counts["images_without_objects"] = len(index) - len(places)
    if limit is not None and limit < len(places):
        counts["images_over_the_limit"] = len(places) - limit
        places = places[:limit]
    left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    used = usable & np.isin(index.object_places, places)
    unseen = np.setdiff1d(np.arange(len(index.categories)), index.objects.labels[used]).tolist()
    if unseen:
        names = listed([repr(index.categories.names[label]) for label in unseen])
        rank_zero_warn(
            f"{index.annotation_file.name}: {len(unseen)} of {len(index.categories)} {PLURAL[index.labels]} have no "
            f"object to train on: {names}"
        )
    rank_zero_info(f"{index.annotation_file.name}: training on {len(places)} images; left out: {left_out}")
    return places, counts


def _nothing_usable(index: COCOIndex, counts: dict[str, int]) -> str:
    total = len(index.object_places)
    if not total:
        return f"{index.annotation_file}: 'annotations' is empty; there is no object to train on"
    if counts["crowd"] == total:
        return (
            f"{index.annotation_file}: all {total} objects are crowd regions ('iscrowd' is 1), which are not trained "
            "on; set 'iscrowd' to 0 for single objects, even if their segmentation is RLE"
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    fault = boxes_fault(index.objects.boxes_xywh, index.sizes[index.object_places])
    advice = "check the boxes; if the boxes are too small, change data.min_box_size or data.short_side"
    return f"{index.annotation_file}: none of its {total} objects can be trained on ({reasons}); {fault or advice}"


def unusable_objects(index: COCOIndex, sizes: NDArray[np.int64], min_box_size: float) -> dict[str, NDArray[Any]]:
    """Find the objects that cannot be trained on, and give one reason for each object. Ignore crowd regions.

    Args:
        index: the annotations.
        sizes: int64 ``(N, 2)`` height and width of every network input.
        min_box_size: least width and height in network-input pixels.

    Returns:
        A bool array ``(M,)`` for each reason: ``inverted`` (negative width or height), ``empty`` (zero width or
        height), ``outside`` (outside the image), ``small`` (the part inside the image is smaller than
        ``min_box_size``).
    """
    objects, places = index.objects, index.object_places
    extent = objects.boxes_xywh[:, 2:]
    limit = index.sizes[places][:, ::-1].astype(np.float64)
    corners = objects.boxes_xywh[:, :2], objects.boxes_xywh[:, :2] + extent
    inside = np.clip(corners[1], 0, limit) - np.clip(corners[0], 0, limit)
    conditions = {
        "inverted": (extent < 0).any(axis=1),
        "empty": (extent == 0).any(axis=1),
        "outside": (inside <= 0).any(axis=1),
        "small": ~large_enough(inside * (sizes / index.sizes)[places][:, ::-1], min_box_size),
    }
    left = ~objects.is_crowd
    reasons = {}
    for reason, condition in conditions.items():
        reasons[reason] = left & condition
        left = left & ~condition
    return reasons

"""Compare our recall of segments with pycocotools and faster-coco-eval, on the same run lengths and one thread.

    python benchmarks/segment_recall.py [--images 40] [--masks 1000] [--objects 7] [--output reports/benchmarks.md]

Our time starts with run lengths and includes every ``update`` and ``compute``. The time of the two peers is that of
``evaluate()`` alone, with records that are already loaded and indexed, ``iouType="segm"``, ``useCats=0``, the same
limits on the number of masks, and the same four area ranges. If one of our numbers differs from a peer's number by
more than 1e-9, no line is written to the report. Memory is the growth of peak memory during evaluation, without the
memory of the masks. Masks are ellipses in images of 480 x 640 px. Near each object lie fifteen masks, from accurate to
inaccurate; the other masks have random positions.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start their threads

import numpy as np
import torch
from compare import REPORT
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from recall_peers import compare_recall

from fpn_lightning.evaluation.recall_metrics import SegmentRecall
from fpn_lightning.ground_truth import RLE, GroundTruth
from fpn_lightning.mask_structures import MaskProposalsOrig

LIMITS = (10, 100, 1000)
SIZE = (480, 640)
Columns = tuple[list[RLE], NDArray[Any], list[RLE], NDArray[Any], NDArray[Any]]


def ellipse(x: float, y: float, width: float, height: float) -> RLE:
    """Return the run lengths of an ellipse in an image of ``SIZE``."""
    bitmap = np.zeros(SIZE, dtype=np.uint8, order="F")
    left, right = (int(np.clip(bound, 0, SIZE[1])) for bound in (x - width / 2, x + width / 2 + 1))
    top, bottom = (int(np.clip(bound, 0, SIZE[0])) for bound in (y - height / 2, y + height / 2 + 1))
    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    bitmap[top:bottom, left:right] = ((columns - x) / width) ** 2 + ((rows - y) / height) ** 2 <= 0.25
    coded = mask_api.encode(bitmap)
    return {"size": list(SIZE), "counts": coded["counts"].decode()}


def synthetic_image(rng: np.random.Generator, num_masks: int, num_objects: float) -> Columns:
    """Return proposals, scores, objects, areas and crowd flags of one image."""
    count = int(rng.poisson(num_objects))
    shapes = np.concatenate(
        (
            rng.uniform(0, 1, (count + num_masks, 2)) * [SIZE[1], SIZE[0]],
            np.exp(rng.uniform(np.log(12), np.log(300), (count + num_masks, 2))),
        ),
        axis=1,
    )
    objects, proposals = shapes[:count], shapes[count:]
    near = np.repeat(objects, 15, axis=0)[:num_masks]
    error = np.tile(np.linspace(0.01, 0.3, 15), count)[:num_masks, None]
    proposals[: len(near)] = near + rng.normal(0, 1, near.shape) * error * near[:, [2, 3, 2, 3]]
    proposals[:, 2:] = np.abs(proposals[:, 2:]) + 1
    masks = [ellipse(*shape) for shape in proposals[rng.permutation(num_masks)].tolist()]
    gt_masks = [ellipse(*shape) for shape in objects.tolist()]
    areas = np.asarray([mask_api.area(mask) for mask in gt_masks], dtype=np.float64)
    return masks, np.sort(rng.random(num_masks))[::-1], gt_masks, areas, rng.random(count) < 0.02


def given(image_id: int, *columns: Any) -> tuple[MaskProposalsOrig, GroundTruth]:
    """Return the arguments of ``update``."""
    masks, scores, gt_masks, areas, is_crowd = columns
    labels, boxes = np.zeros(len(areas), dtype=np.int64), np.zeros((len(areas), 4))
    found = MaskProposalsOrig(image_id, masks, torch.from_numpy(scores.copy()), torch.full((len(masks),), 2))
    return found, GroundTruth(image_id, boxes, areas, is_crowd, labels, masks=gt_masks)


def coco_tables(images: Sequence[Columns]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert the images to COCO's dictionaries of ground truth and of results."""
    shared = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(images) + 1)],
        "categories": [{"id": 1, "name": "object"}],
    }
    objects: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, (masks, scores, gt_masks, areas, is_crowd) in enumerate(images, start=1):
        common = {"image_id": image_id, "category_id": 1}
        for mask, area, crowd in zip(gt_masks, areas.tolist(), is_crowd.tolist(), strict=True):
            number = {"id": len(objects) + 1, "area": area, "iscrowd": int(crowd)}
            objects.append({**common, **number, "segmentation": mask, "bbox": mask_api.toBbox(mask).tolist()})
        for mask, score in zip(masks, scores.tolist(), strict=True):
            number = {"id": len(results) + 1, "area": float(mask_api.area(mask)), "iscrowd": 0}
            results.append({**common, **number, "segmentation": mask, "score": score})
    return {**shared, "annotations": objects}, {**shared, "annotations": results}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare our segment recall with pycocotools and faster-coco-eval.")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--objects", type=float, default=7, help="mean number of objects per image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [synthetic_image(rng, arguments.masks, arguments.objects) for _ in range(arguments.images)]
    work = f"segment recall, {arguments.images} images x {arguments.masks} masks, 1 thread"
    return compare_recall(
        work, SegmentRecall, images, given, coco_tables, "segm", LIMITS, arguments.rounds, arguments.output
    )


if __name__ == "__main__":
    sys.exit(main())

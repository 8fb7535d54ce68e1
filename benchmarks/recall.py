"""Compare our recall of proposals with pycocotools and faster-coco-eval, on the same boxes and one thread.

    python benchmarks/recall.py [--images 500] [--boxes 1000] [--objects 7] [--output reports/benchmarks.md]

Our time starts with arrays and includes every ``update`` and ``compute``. The time of the two peers is that of
``evaluate()`` alone, with records that are already loaded and indexed, ``useCats=0``, the same limits on the number of
boxes, and the same four area ranges. If one of our numbers differs from a peer's number by more than 1e-9, no line is
written to the report. Memory is the growth of peak memory during evaluation, without the memory of the boxes.

Near each object lie fifteen boxes, from accurate to inaccurate: about as many as non-maximum suppression at IoU 0.7
keeps. The other boxes have random positions.
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
from recall_peers import compare_recall

from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.evaluation.recall_metrics import ProposalRecall
from fpn_lightning.ground_truth import GroundTruth

LIMITS = (10, 30, 100, 1000)
Columns = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def synthetic_image(rng: np.random.Generator, num_boxes: int, num_objects: float) -> Columns:
    count = int(rng.poisson(num_objects))
    sizes = np.exp(rng.uniform(np.log(12), np.log(300), (count, 2)))
    gt_boxes = np.concatenate((rng.uniform(0, 1, (count, 2)) * (640 - sizes), sizes), axis=1)
    sizes = np.exp(rng.uniform(np.log(12), np.log(300), (num_boxes, 2)))
    boxes = np.concatenate((rng.uniform(0, 1, (num_boxes, 2)) * (640 - sizes), sizes), axis=1)
    near = np.repeat(gt_boxes, 15, axis=0)[:num_boxes]
    error = np.tile(np.linspace(0.01, 0.3, 15), count)[:num_boxes, None]
    boxes[: len(near)] = np.abs(near + rng.normal(0, 1, near.shape) * error * near[:, [2, 3, 2, 3]])
    boxes = boxes[rng.permutation(num_boxes)]
    scores = np.sort(rng.random(num_boxes))[::-1]
    return boxes, scores, gt_boxes, gt_boxes[:, 2] * gt_boxes[:, 3] * 0.7, rng.random(count) < 0.02


def given(image_id: int, *columns: NDArray[Any]) -> tuple[FileResults, GroundTruth]:
    """Return the arguments of ``update``."""
    boxes, scores, gt_boxes, areas, is_crowd = columns
    labels = np.zeros(len(areas), dtype=np.int64)
    return FileResults(boxes, scores), GroundTruth(image_id, gt_boxes, areas, is_crowd, labels)


def coco_tables(images: Sequence[Columns]) -> tuple[dict[str, Any], dict[str, Any]]:
    shared = {
        "images": [{"id": i} for i in range(1, len(images) + 1)],
        "categories": [{"id": 1, "name": "object"}],
    }
    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image_id, (boxes, scores, gt_boxes, areas, is_crowd) in enumerate(images, start=1):
        common = {"image_id": image_id, "category_id": 1}
        for box, area, crowd in zip(gt_boxes.tolist(), areas.tolist(), is_crowd.tolist(), strict=True):
            objects.append({**common, "id": len(objects) + 1, "bbox": box, "area": area, "iscrowd": int(crowd)})
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
            number, area = len(detections) + 1, box[2] * box[3]
            detections.append({**common, "id": number, "bbox": box, "area": area, "iscrowd": 0, "score": score})
    return {**shared, "annotations": objects}, {**shared, "annotations": detections}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare our average recall with pycocotools and faster-coco-eval.")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--objects", type=float, default=7, help="mean number of objects per image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [synthetic_image(rng, arguments.boxes, arguments.objects) for _ in range(arguments.images)]
    work = f"proposal recall, {arguments.images} images x {arguments.boxes} boxes, 1 thread"
    return compare_recall(
        work, ProposalRecall, images, given, coco_tables, "bbox", LIMITS, arguments.rounds, arguments.output
    )


if __name__ == "__main__":
    sys.exit(main())

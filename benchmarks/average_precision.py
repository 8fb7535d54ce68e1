"""Compare time and memory of our average precision with pycocotools, on the same boxes of 80 classes and one thread.

    python benchmarks/average_precision.py [--images 1000] [--detections 100] [--objects 7]
        [--output reports/benchmarks.md]

The timed part starts with arrays of detections and ends with COCO's twelve numbers and the AP of each class. Our time
includes every ``update``, with detections and objects, and ``compute``. The time of pycocotools includes ``loadRes``,
``evaluate()``, ``accumulate()`` and ``summarize()``, but not loading and indexing the objects. If one of our numbers
differs from pycocotools' number by more than 1e-9, no line is written to the report. Memory is the growth of peak
memory during evaluation, without the memory of the boxes.

Near each object lie three boxes of its class, from accurate to inaccurate: about as many as non-maximum suppression at
IoU 0.5 keeps. The other boxes have random positions and classes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # set before NumPy and torch start their threads

import numpy as np
import torch
from compare import REPORT, append_line, peak_memory_mib, time_in_turn
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.structures import DetectionsOrig

NUM_CLASSES = 80
BOXES_PER_OBJECT = 3
# Our names of COCO's twelve numbers, in the order of pycocotools' summary.
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "AR100_s", "AR100_m", "AR100_l")
Image = tuple[NDArray[Any], ...]


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    sizes = np.exp(rng.uniform(np.log(12), np.log(300), (count, 2)))
    return np.concatenate((rng.uniform(0, 1, (count, 2)) * (640 - sizes), sizes), axis=1)


def synthetic_image(rng: np.random.Generator, num_detections: int, num_objects: float) -> Image:
    """Return boxes xyxy, scores and labels of detections, and boxes xywh, areas, crowd flags and labels of objects."""
    count = int(rng.poisson(num_objects))
    gt_boxes, gt_labels = random_boxes(rng, count), rng.integers(0, NUM_CLASSES, count)
    boxes, labels = random_boxes(rng, num_detections), rng.integers(0, NUM_CLASSES, num_detections)
    near = np.repeat(gt_boxes, BOXES_PER_OBJECT, axis=0)[:num_detections]
    error = np.tile(np.linspace(0.02, 0.3, BOXES_PER_OBJECT), count)[:num_detections, None]
    boxes[: len(near)] = np.abs(near + rng.normal(0, 1, near.shape) * error * near[:, [2, 3, 2, 3]])
    labels[: len(near)] = np.repeat(gt_labels, BOXES_PER_OBJECT)[:num_detections]
    scores = rng.random(num_detections)
    scores[: len(near)] += 0.3  # boxes near objects usually have higher scores than background
    order = np.argsort(-scores)
    areas, is_crowd = gt_boxes[:, 2] * gt_boxes[:, 3] * 0.7, rng.random(count) < 0.02
    boxes_orig = box_convert(torch.from_numpy(boxes[order]), "xywh", "xyxy").numpy()
    return boxes_orig, scores[order], labels[order], gt_boxes, areas, is_crowd, gt_labels


def given(image_id: int, *columns: NDArray[Any]) -> tuple[DetectionsOrig, GroundTruth]:
    """Return the arguments of ``update``."""
    boxes, scores, labels, gt_boxes, areas, is_crowd, gt_labels = columns
    found = DetectionsOrig(image_id, *(torch.from_numpy(column) for column in (boxes, scores, labels)))
    return found, GroundTruth(image_id, gt_boxes, areas, is_crowd, gt_labels)


def indexed_objects(images: list[Image]) -> COCO:
    """Return the objects of the images, whose ids are 1, 2, ..., as an indexed data set of pycocotools."""
    objects: list[dict[str, Any]] = []
    for image_id, (*_, boxes, areas, is_crowd, labels) in enumerate(images, start=1):
        for box, area, crowd, label in zip(
            *(column.tolist() for column in (boxes, areas, is_crowd, labels)), strict=True
        ):
            record = {"id": len(objects) + 1, "image_id": image_id, "category_id": label}
            objects.append({**record, "bbox": box, "area": area, "iscrowd": int(crowd)})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in range(1, len(images) + 1)],
        "annotations": objects,
        "categories": [{"id": label} for label in range(NUM_CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def detection_rows(images: list[Image]) -> NDArray[np.float64]:
    """Return ``(D, 7)`` image id, box xywh, score and label of all detections, as ``loadRes`` expects them."""
    rows = [
        (np.full(len(scores), image_id), box_convert(torch.from_numpy(boxes), "xyxy", "xywh"), scores, labels)
        for image_id, (boxes, scores, labels, *_) in enumerate(images, start=1)
    ]
    return np.concatenate([np.column_stack(columns) for columns in rows])


def prepare_peer(images: list[Image]) -> Callable[[], COCOeval]:
    """Return a function that evaluates with pycocotools and returns the evaluator."""
    objects, rows = indexed_objects(images), detection_rows(images)

    def evaluate() -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = COCOeval(objects, objects.loadRes(rows), "bbox")
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        return evaluator

    return evaluate


def peer_values(evaluator: COCOeval) -> NDArray[np.float64]:
    """Return COCO's twelve numbers, then the AP of each class. A number is -1 if it has no ground truth."""
    by_class = evaluator.eval["precision"][..., 0, -1].mean(axis=(0, 1))  # (T, R, K, A, M) -> (K,): K classes
    return np.concatenate((evaluator.stats, by_class))


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare our average precision with pycocotools.")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--objects", type=float, default=7, help="mean number of objects per image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [synthetic_image(rng, arguments.detections, arguments.objects) for _ in range(arguments.images)]
    updates = [given(image_id, *columns) for image_id, columns in enumerate(images, start=1)]
    names = {label: f"{label:02}" for label in range(NUM_CLASSES)}

    def ours(count: int = len(images)) -> list[float | None]:
        metric = AveragePrecision()
        for prediction, ground_truth in updates[:count]:
            metric.update(prediction, ground_truth)
        values, by_class = metric.compute(), metric.per_class(names)
        return [values[name] for name in COLUMNS] + [by_class[name] for name in names.values()]

    peer = prepare_peer(images)
    memory = peak_memory_mib(ours, warm_up=lambda: ours(1))
    peer_memory = peak_memory_mib(peer, warm_up=prepare_peer(images[:1]))

    found = np.array([-1 if value is None else value for value in ours()])
    difference = float(np.abs(peer_values(peer()) - found).max())
    if difference > 1e-9:
        print(
            f"the numbers of pycocotools differ from ours by up to {difference:.3g}; nothing is written",
            file=sys.stderr,
        )
        return 1
    print(f"pycocotools: all {found.size} numbers agree, largest difference {difference:.1e}")

    seconds = time_in_turn({"ours": ours, "pycocotools": peer}, arguments.rounds)
    for name, used in (("ours", memory), ("pycocotools", peer_memory)):
        print(
            f"{name}: {seconds[name]:.3f} s, {1000 * seconds[name] / arguments.images:.3f} ms an image, +{used:.1f} MiB"
        )
    work = f"average precision, {arguments.images} images x {arguments.detections} detections, 1 thread"
    both = f"{memory:.1f} MiB, peer {peer_memory:.1f} MiB"
    ratio = seconds["pycocotools"] / seconds["ours"]
    print(append_line(work, "pycocotools loadRes() to summarize()", ratio, both, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())

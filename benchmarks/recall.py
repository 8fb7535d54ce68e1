"""Average recall of proposals beside pycocotools and faster-coco-eval, on one thread and on the same boxes.

    python benchmarks/recall.py [--images 500] [--boxes 1000] [--objects 7] [--output reports/benchmarks.md]

What is timed: for us every ``update`` and ``compute`` from arrays; for the peers ``evaluate()`` alone, from records
already loaded and indexed, with ``useCats=0``, the same limits and four area ranges. The numbers of all three are
compared to 1e-9 before a line is written. Memory is growth while evaluating, boxes not counted.
Around each object lie 15 boxes of growing error, about what non-maximum suppression at IoU 0.7 leaves; the rest is
background.
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

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start their threads

import faster_coco_eval
import numpy as np
import torch
from compare import REPORT, append_line, peak_memory_mib, time_in_turn
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.proposal_recall import ProposalRecall

LIMITS = (10, 30, 100, 1000)
AREA_THRESHOLDS = (32**2, 96**2)
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


def coco_tables(images: list[Columns]) -> tuple[dict[str, Any], dict[str, Any]]:
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


def prepare_peer(coco: type, evaluator_class: type, tables: tuple[dict[str, Any], dict[str, Any]]) -> Callable[[], Any]:
    """Return a call that runs the peer's ``evaluate()`` and hands back the evaluator."""
    indexed = []
    with contextlib.redirect_stdout(io.StringIO()):
        for table in tables:
            indexed.append(coco())
            indexed[-1].dataset = table
            indexed[-1].createIndex()

    def evaluate() -> Any:
        evaluator = evaluator_class(*indexed, iouType="bbox")
        evaluator.params.useCats = 0
        evaluator.params.maxDets = list(LIMITS)
        evaluator.params.areaRng = area_ranges(AREA_THRESHOLDS).tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator.evaluate()
        return evaluator

    return evaluate


def peer_recall(evaluator: Any) -> NDArray[np.float64]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    recall = np.asarray(evaluator.eval["recall"])[:, 0].mean(axis=0)  # (T, A, M) -> (A, M)
    return recall.T.ravel()


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Average recall beside pycocotools and faster-coco-eval.")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--objects", type=float, default=7, help="mean number of objects per image")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [synthetic_image(rng, arguments.boxes, arguments.objects) for _ in range(arguments.images)]

    def ours(count: int = len(images)) -> dict[str, float | None]:
        metric = ProposalRecall(LIMITS, AREA_THRESHOLDS)
        for columns in images[:count]:
            metric.update(*columns)
        return metric.compute()

    memory = {"ours": peak_memory_mib(ours, warm_up=lambda: ours(1))}
    tables, one_image = coco_tables(images), coco_tables(images[:1])
    peers = {}
    for name, coco, evaluator in (
        ("pycocotools", COCO, COCOeval),
        ("faster-coco-eval", faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    ):
        peers[name] = prepare_peer(coco, evaluator, tables)
        memory[name] = peak_memory_mib(peers[name], warm_up=prepare_peer(coco, evaluator, one_image))

    found = np.array([-1 if value is None else value for value in ours().values()])
    for name, evaluate in peers.items():
        difference = float(np.abs(peer_recall(evaluate()) - found).max())
        if difference > 1e-9:
            print(f"{name} differs from us by {difference:.3g}; nothing is written", file=sys.stderr)
            return 1
        print(f"{name}: all {found.size} cells agree, largest difference {difference:.1e}")

    seconds = time_in_turn({"ours": ours, **peers}, arguments.rounds)
    for name, value in seconds.items():
        print(f"{name}: {value:.3f} s, {1000 * value / arguments.images:.3f} ms an image, +{memory[name]:.1f} MiB")
    work = f"proposal recall, {arguments.images} images x {arguments.boxes} boxes, 1 thread"
    for name in peers:
        both = f"{memory['ours']:.1f} MiB, peer {memory[name]:.1f} MiB"
        print(append_line(work, f"{name} evaluate()", seconds[name] / seconds["ours"], both, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Awkward scenes, and pycocotools as the reference for them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_convert

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.__main__ import main
from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.structures import DetectionsOrig


@dataclass
class Scene:
    """One image: what detections and annotations say, in the order of their files."""

    boxes: np.ndarray
    scores: np.ndarray
    gt_boxes: np.ndarray
    gt_areas: np.ndarray
    gt_is_crowd: np.ndarray
    gt_labels: np.ndarray

    @property
    def given(self) -> tuple[FileResults, GroundTruth]:
        """What ``ProposalRecall.update`` takes."""
        annotated = GroundTruth(0, self.gt_boxes, self.gt_areas, self.gt_is_crowd, self.gt_labels)
        return FileResults(self.boxes, self.scores), annotated


def detected(image_id: int, boxes_xywh: Any, scores: Any, labels: Any, *annotated: Any) -> tuple[Any, ...]:
    """What ``AveragePrecision.update`` takes, of columns: those of the detections, then those of the objects."""
    boxes = torch.as_tensor(boxes_xywh).reshape(-1, 4)
    others = (torch.as_tensor(column) for column in (scores, labels))
    return DetectionsOrig(image_id, box_convert(boxes, "xywh", "xyxy"), *others), GroundTruth(image_id, *annotated)


def image_record(image_id: int, height: int, width: int) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}


def coco_dataset(scenes: list[Scene]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=1):
        for box, area, is_crowd, label in zip(
            scene.gt_boxes, scene.gt_areas, scene.gt_is_crowd, scene.gt_labels, strict=True
        ):
            common = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label) + 1}
            annotations.append({**common, "bbox": box.tolist(), "area": float(area), "iscrowd": int(is_crowd)})
    return {
        "images": [image_record(i + 1, 500, 500) for i in range(len(scenes))],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, 6)],
    }


def coco_results(scenes: list[Scene]) -> list[dict[str, Any]]:
    return [
        {"image_id": i + 1, "category_id": 1, "bbox": box.tolist(), "score": float(score)}
        for i, scene in enumerate(scenes)
        for box, score in zip(scene.boxes, scene.scores, strict=True)
    ]


def pycocotools_recall(
    dataset: dict[str, Any],
    results: list[dict[str, Any]],
    limits: tuple[int, ...],
    area_thresholds: tuple[float, float] = (32**2, 96**2),
    iou_type: str = "bbox",
) -> np.ndarray:
    """Class-agnostic recall straight from pycocotools: ``(area range, limit)``, -1 without ground truth."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = dataset
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(results), iou_type)
        evaluator.params.useCats = 0
        evaluator.params.maxDets = list(limits)
        small, large = area_thresholds
        evaluator.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["recall"][:, 0].mean(axis=0)


def pycocotools_average_precision(
    dataset: dict[str, Any], results: list[dict[str, Any]], area_thresholds: tuple[float, float]
) -> dict[str, float | None]:
    """COCO's numbers of boxes, with classes, from pycocotools alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = copy.deepcopy(dataset)
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(copy.deepcopy(results)), "bbox")
        small, large = area_thresholds
        evaluator.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"][..., 2], evaluator.eval["recall"]
    cells = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    cells |= {f"AP{size}": precision[..., a] for a, size in enumerate("sml", 1)}
    for i, limit in enumerate((1, 10, 100)):
        cells |= {f"AR{limit}{suffix}": recall[:, :, a, i] for a, suffix in enumerate(("", "_s", "_m", "_l"))}
    return {name: float(cell[cell > -1].mean()) if (cell > -1).any() else None for name, cell in cells.items()}


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene made to be awkward.

    Small integer boxes put IoUs exactly on thresholds and make equal IoUs and equal boxes frequent; scores take few
    values; areas are unrelated to boxes and often lie exactly on a threshold; crowds may cover everything.
    """

    num_gt, num_det = int(rng.integers(0, 9)), int(rng.integers(0, 60))
    side = int(rng.choice([4, 10, 40, 200]))
    gt_boxes = rng.integers(0, side, (num_gt, 4)).astype(float)
    gt_boxes[:, 2:] += rng.integers(0, 2)
    boxes = rng.integers(0, side, (num_det, 4)).astype(float)
    if num_gt and num_det:
        jitter = rng.integers(-2, 3, (num_det, 4)) * rng.integers(0, 2, (num_det, 1))
        near = np.abs(gt_boxes[rng.integers(0, num_gt, num_det)] + jitter)
        boxes = np.where(rng.random((num_det, 1)) < 0.8, near, boxes)
    gt_areas = rng.choice([0.0, 10.0, 32.0**2, 2000.0, 96.0**2, 96.0**2 + 0.5, 1e6], num_gt)
    gt_is_crowd = rng.random(num_gt) < rng.choice([0, 0.3, 1])
    if num_gt and rng.random() < 0.2:
        gt_boxes[0], gt_is_crowd[0] = (0, 0, 2 * side, 2 * side), True
    if rng.random() < 0.3:
        gt_boxes = gt_boxes[rng.integers(0, max(num_gt, 1), num_gt)]
    scores = rng.integers(0, rng.choice([1, 4, 1000]), num_det, endpoint=True) / 7
    return Scene(boxes, scores, gt_boxes, gt_areas, gt_is_crowd, rng.integers(0, 5, num_gt))


def random_masks(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images with overlapping noisy masks, crowds, equal masks, empty masks, tied scores; some without objects."""
    images = [image_record(i, 30, 40) for i in range(1, 9)]
    categories = [{"id": i, "name": str(i)} for i in range(1, 5)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def blob() -> dict[str, Any]:
        bitmap = np.zeros((30, 40), dtype=np.uint8, order="F")
        y, x = rng.integers(0, 26), rng.integers(0, 36)
        bitmap[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = 1
        if rng.random() < 0.5:
            bitmap[:: rng.integers(2, 5)] = 0
        return {"size": [30, 40], "counts": mask_api.encode(bitmap)["counts"].decode()}

    for image in images:
        for _ in range(rng.integers(0, 6)):
            mask = annotations[-1]["segmentation"] if annotations and rng.random() < 0.2 else blob()
            category_id, area = int(rng.integers(1, 5)), float(rng.choice([mask_api.area(mask), 40, 150]))
            common = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category_id, "area": area}
            shape = {"segmentation": mask, "bbox": mask_api.toBbox(mask).tolist()}
            annotations.append({**common, **shape, "iscrowd": int(rng.random() < 0.2)})  # 40, 150 part the size classes
        of_image = [item["segmentation"] for item in annotations if item["image_id"] == image["id"]]
        for _ in range(rng.integers(0, 25)):
            mask = of_image[rng.integers(len(of_image))] if of_image and rng.random() < 0.4 else blob()
            score = float(rng.integers(0, rng.choice([1, 4, 1000]), endpoint=True)) / 7
            results.append({"image_id": image["id"], "category_id": 1, "segmentation": mask, "score": score})
    return {"images": images, "annotations": annotations, "categories": categories}, results


def assert_same_cells(values: dict[Any, float | None], expected: dict[Any, float | None]) -> None:
    """The same columns to 1e-9, and the same ones without a value."""
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert (values[name] is None) == (value is None), name
        assert value is None or abs(values[name] - value) <= 1e-9, (name, values[name], value)


CATEGORY_IDS = (3, 7, 44, 81, 90, 91, 200)  # of labels 0 to 6; no object has label 5 or 6, no detection label 6


def random_detections(rng: np.random.Generator, num_images: int) -> dict[int, tuple[np.ndarray, ...]]:
    """Awkward images by id, in any order: what ``AveragePrecision.update`` takes after the id.

    One image has no detections, one no objects, one 150 detections of each of two classes.
    """
    images = {}
    for row, image_id in enumerate(rng.permutation(1000)[:num_images].tolist()):
        scene = random_scene(rng)
        labels = rng.integers(0, 6, len(scene.boxes))
        if row == 0:
            scene.boxes = np.concatenate([rng.integers(0, 40, (300, 4)).astype(float), scene.boxes])
            scene.scores = np.concatenate([rng.integers(0, 9, 300) / 7, scene.scores])
            labels = np.concatenate([np.arange(300) % 2, labels])
        elif len(scene.gt_boxes) and len(scene.boxes):
            # As random_scene puts boxes near any object, few would have its class.
            some = rng.random(len(labels)) < 0.5
            labels[some] = scene.gt_labels[0]
        found = (scene.boxes, scene.scores, labels)
        annotated = (scene.gt_boxes, scene.gt_areas, scene.gt_is_crowd, scene.gt_labels)
        if row == 1:
            found = tuple(array[:0] for array in found)
        if row == 2:
            annotated = tuple(array[:0] for array in annotated)
        images[image_id] = (*found, *annotated)
    return images


def write_coco_files(images: dict[int, tuple[np.ndarray, ...]], folder: Path) -> tuple[Path, Path]:
    """An annotation file and a result file with sparse category ids and annotation ids from 1, images by falling id."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in sorted(images, reverse=True):
        boxes, scores, labels, gt_boxes, gt_areas, gt_is_crowd, gt_labels = (a.tolist() for a in images[image_id])
        for box, score, label in zip(boxes, scores, labels, strict=True):
            results.append({"image_id": image_id, "category_id": CATEGORY_IDS[label], "bbox": box, "score": score})
        for box, area, is_crowd, label in zip(gt_boxes, gt_areas, gt_is_crowd, gt_labels, strict=True):
            common = {"id": len(annotations) + 1, "image_id": image_id, "category_id": CATEGORY_IDS[label]}
            annotations.append({**common, "bbox": box, "area": area, "iscrowd": int(is_crowd)})
    content = {
        "images": [image_record(image_id, 500, 500) for image_id in images],
        "annotations": annotations,
        "categories": [{"id": category_id, "name": f"c{category_id}"} for category_id in CATEGORY_IDS],
    }
    paths = folder / "annotations.json", folder / "results.json"
    for path, written in zip(paths, (content, results), strict=True):
        path.write_text(json.dumps(written))
    return paths


def values_of_two_processes(
    make_metric: Callable[[], Any], values_of: Callable[[Any], Any], shares: list[list[Any]], folder: Path
) -> list[Any]:
    """The values of each of two processes after it has updated a metric with its share, or the error it raises."""

    def score(rank: int) -> None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        metric = make_metric()
        for given in shares[rank]:
            metric.update(*given)
        try:
            values = values_of(metric)
        except InputError as error:
            values = str(error)
        (folder / f"{rank}.json").write_text(json.dumps(values))
        torch.distributed.destroy_process_group()

    workers = [multiprocessing.get_context("fork").Process(target=score, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def scored(annotations: object, results: object, *options: object) -> dict[str, Any]:
    """What ``python -m fpn_lightning.evaluation`` writes about two files."""
    output = Path(str(results)).with_name("scored.json")
    assert main([str(argument) for argument in (annotations, results, *options, "--output", output)]) == 0
    return json.loads(output.read_text())


def scored_content(folder: Path, dataset: Any, results: Any, *options: object) -> dict[str, Any]:
    """The same for the content of two files, which are written to ``folder``."""
    paths = folder / "annotations.json", folder / "results.json"
    for path, content in zip(paths, (dataset, results), strict=True):
        path.write_text(json.dumps(content))
    return scored(*paths, *options)


def pycocotools_summary(annotations: Path, results: Path) -> tuple[dict[str, float | None], dict[int, float | None]]:
    """COCO's twelve numbers from its own summary, and AP by category id; None without ground truth."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(annotations))
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(str(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "AR100_s", "AR100_m", "AR100_l"]
    values = dict(zip(names, evaluator.stats.tolist(), strict=True))
    by_class = evaluator.eval["precision"][:, :, :, 0, 2].reshape(-1, len(evaluator.params.catIds)).mean(axis=0)
    class_values = dict(zip(evaluator.params.catIds, by_class.tolist(), strict=True))
    return (
        {name: None if value == -1 else value for name, value in values.items()},
        {category_id: None if value == -1 else value for category_id, value in class_values.items()},
    )

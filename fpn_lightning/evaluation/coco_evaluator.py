"""COCO's average precision of boxes or masks, computed by ``faster-coco-eval`` or ``pycocotools``.

``faster-coco-eval`` is the default, because it is fast. ``pycocotools`` is the reference. Both libraries give the same
values. AP and AR are computed from the arrays ``precision`` and ``recall`` of these libraries. The array ``stats`` is
not used, because ``stats`` supports only AR at 1, 10 and 100 detections.

Shapes: D detections and G objects of one image; T = 10 IoU thresholds 0.50, 0.55, ..., 0.95; R = 101 recall levels; K
classes; A = 4 area ranges (all, small, medium, large); L limits.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.evaluation import Backend
from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.recall import check_limits
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.metric_names import AREA_SUFFIXES, recall_key

IoUType = Literal["bbox", "segm"]
Record = dict[str, Any]
Values = dict[str, float | None]
ClassValues = dict[int, float | None]
AP_LIMIT = 100  # AP uses 100 detections per image and class, whatever the limits of AR are


class Records:
    """The detections and objects of a split, as one dictionary per detection or object.

    The records are dictionaries, because neither ``faster-coco-eval`` nor ``pycocotools`` can read arrays.

    Args:
        iou_type: ``bbox`` to compare boxes, ``segm`` to compare masks.
    """

    def __init__(self, iou_type: IoUType = "bbox") -> None:
        self.iou_type: IoUType = iou_type
        self.images: list[Record] = []
        self.detections: list[Record] = []
        self.objects: list[Record] = []

    def add(self, prediction: FileResults, ground_truth: GroundTruth) -> None:
        """Add one image. Images without detections must be added as well, because their objects lower AP and AR.

        Detections with equal scores stay in the given order. Detections and ground truth use the same class indices.
        """
        image_id = ground_truth.image_id
        image = {"id": image_id}
        if self.iou_type == "bbox":
            shape, detected, annotated = "bbox", prediction.boxes_xywh.tolist(), ground_truth.boxes_xywh.tolist()
            areas = prediction.areas.tolist() or [width * height for _, _, width, height in detected]
        else:
            shape, detected, annotated = "segmentation", prediction.masks, ground_truth.masks
            areas = [float(mask_api.area(mask)) for mask in detected]
            if annotated or detected:
                image["height"], image["width"] = (annotated or detected)[0]["size"]
        self.images.append(image)
        scores, labels = prediction.scores.tolist(), prediction.labels.tolist()
        for what, area, score, label in zip(detected, areas, scores, labels, strict=True):
            record = {"image_id": image_id, "category_id": label, shape: what, "score": score, "area": area}
            self.detections.append({**record, "id": len(self.detections) + 1, "iscrowd": 0})
        columns = (column.tolist() for column in (ground_truth.areas, ground_truth.is_crowd, ground_truth.labels))
        for what, area, crowd, label in zip(annotated, *columns, strict=True):
            # Object ids start at 1, because both evaluators use id 0 for "unmatched".
            record = {"image_id": image_id, "category_id": label, shape: what, "area": area}
            self.objects.append({**record, "id": len(self.objects) + 1, "iscrowd": int(crowd)})

    @property
    def labels(self) -> list[int]:
        """The labels of all detections and objects, ascending."""
        return sorted({record["category_id"] for record in (*self.detections, *self.objects)})


def average_precision(
    records: Records,
    limits: Sequence[int] = (1, 10, 100),
    area_thresholds: Sequence[float] = (32**2, 96**2),
    backend: Backend = "faster-coco-eval",
) -> tuple[Values, ClassValues]:
    """Compute AP, and AR for each limit, both averaged over the classes.

    Args:
        records: detections and objects of all images. The evaluators modify these records.
        limits: numbers of detections kept per image and class, for ``AR<limit>``.
        area_thresholds: two areas in px² of the image file; the first separates small from medium objects, the second
            medium from large.
        backend: library that computes AP.

    Returns:
        ``(values, class_values)``: two dictionaries, in which each value is a fraction in [0, 1], or ``None`` if the
        value has no ground truth. The keys of ``values`` are ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and,
        for every limit, ``AR<limit>``, ``AR<limit>_s``, ``AR<limit>_m``, ``AR<limit>_l``. For masks, all these names
        start with ``segm_``. ``class_values`` maps each label in the records to its ``AP``.

    Raises:
        InputError: if limits or thresholds are invalid.
    """
    ascending = check_limits(limits)
    evaluated = check_limits(tuple({*limits, AP_LIMIT}))
    precision, recall = _evaluate(records, evaluated, area_thresholds, backend)
    at_limit = precision[..., evaluated.index(AP_LIMIT)]
    cells = {
        "AP": at_limit[..., 0],
        "AP50": at_limit[0, ..., 0],
        "AP75": at_limit[5, ..., 0],
        "APs": at_limit[..., 1],
        "APm": at_limit[..., 2],
        "APl": at_limit[..., 3],
    }
    for limit in ascending:
        for a, suffix in enumerate(AREA_SUFFIXES):
            cells[recall_key(limit, suffix)] = recall[:, :, a, evaluated.index(limit)]
    class_values = {label: _mean(at_limit[:, :, k, 0]) for k, label in enumerate(records.labels)}
    prefix = "segm_" if records.iou_type == "segm" else ""
    return {prefix + name: _mean(array) for name, array in cells.items()}, class_values


def by_class_name(class_values: Mapping[int, float | None], names: Mapping[int, str]) -> Values:
    """Map class names to values, best first; classes without ground truth (``None`` or missing) come last.

    If several classes have the same name, each name is followed by its class id in parentheses.
    """
    shared = Counter(names.values())
    rows = [
        (name if shared[name] == 1 else f"{name} ({class_id})", class_values.get(class_id))
        for class_id, name in names.items()
    ]
    return dict(sorted(rows, key=lambda row: (row[1] is None, -(row[1] or 0), row[0])))


def _evaluate(
    records: Records, limits: tuple[int, ...], area_thresholds: Sequence[float], backend: Backend
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision ``(T, R, K, A, L)`` and recall ``(T, K, A, L)``; entries without ground truth are -1."""
    coco, evaluator_class = (
        (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
        if backend == "faster-coco-eval"
        else (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval)
    )
    shared = {"images": records.images, "categories": [{"id": label} for label in records.labels]}
    with contextlib.redirect_stdout(io.StringIO()):
        tables = []
        for annotations in (records.objects, records.detections):
            # The evaluators' ``loadRes`` is not used, because it fails on an empty list of results.
            table = coco()
            table.dataset = {**shared, "annotations": annotations}
            table.createIndex()
            tables.append(table)
        evaluator = evaluator_class(*tables, iouType=records.iou_type)
        evaluator.params.maxDets = list(limits)
        evaluator.params.areaRng = area_ranges(area_thresholds).tolist()
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _mean(cells: NDArray[Any]) -> float | None:
    known = cells[cells > -1]
    return float(known.mean()) if known.size else None

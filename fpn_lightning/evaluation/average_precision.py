"""COCO's average precision, and recall of boxes or masks, through COCO's own evaluator or its C++ counterpart.

``faster-coco-eval`` is the default for its speed, ``pycocotools`` the reference; both give the same cells. Values are
read from the evaluators' ``precision`` and ``recall`` arrays by limit, never from ``stats``: its positions are fixed
for three limits (FPN Table 6 needs 1,000 detections, COCO's summary knows 1, 10 and 100).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.evaluation.annotations import Record
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.proposal_recall import AREA_SUFFIXES, check_limits, recall_key

Backend = Literal["faster-coco-eval", "pycocotools"]
AP_LIMIT = 100  # COCO's AP looks at 100 detections an image, whatever the limits asked for


def average_precision(
    annotations: dict[str, list[Record]],
    results: list[Record],
    iou_type: Literal["bbox", "segm"] = "bbox",
    limits: Sequence[int] = (1, 10, 100),
    area_thresholds: Sequence[float] = (32**2, 96**2),
    backend: Backend = "faster-coco-eval",
) -> dict[str, float | None]:
    """Average precision over classes, and recall per limit.

    Args:
        annotations: what ``read_annotations`` returned (``with_masks`` for ``segm``).
        results: what ``read_results`` returned for the same ``iou_type``.
        iou_type: IoU of boxes or of masks.
        limits: detections kept per image and class for ``AR<limit>``.
        area_thresholds: between small and medium and between medium and large objects, px² of the image file.
        backend: the evaluator.

    Returns:
        Fractions in [0, 1] under ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and the columns of
        :func:`class_agnostic_recall`; ``None`` where there is no ground truth.

    Raises:
        InputError: limits or thresholds that cannot be used.
    """
    with_ap_limit = check_limits(tuple({*limits, AP_LIMIT}))
    precision, recall = _evaluate(annotations, results, iou_type, with_ap_limit, area_thresholds, backend, True)
    at_ap_limit = precision[..., with_ap_limit.index(AP_LIMIT)]
    # (T, R, K, A): thresholds 0.50, 0.55, ..., 0.95; areas all, small, medium, large
    cells = {
        "AP": at_ap_limit[..., 0],
        "AP50": at_ap_limit[0, ..., 0],
        "AP75": at_ap_limit[5, ..., 0],
        "APs": at_ap_limit[..., 1],
        "APm": at_ap_limit[..., 2],
        "APl": at_ap_limit[..., 3],
    }
    values = {name: _mean(cell) for name, cell in cells.items()}
    return values | _recall_columns(recall, with_ap_limit, check_limits(limits), iou_type)


def class_agnostic_recall(
    annotations: dict[str, list[Record]],
    results: list[Record],
    iou_type: Literal["bbox", "segm"] = "segm",
    limits: Sequence[int] = (10, 100, 1000),
    area_thresholds: Sequence[float] = (32**2, 96**2),
    backend: Backend = "faster-coco-eval",
) -> dict[str, float | None]:
    """Average recall whatever the class (FPN Table 6 for masks).

    Args:
        annotations: what ``read_annotations`` returned (``with_masks`` for ``segm``).
        results: what ``read_results`` returned for the same ``iou_type``.
        iou_type: IoU of boxes or of masks. Sizes are the annotation's ``area`` either way.
        limits: detections kept per image.
        area_thresholds: between small and medium and between medium and large objects, px² of the image file.
        backend: the evaluator.

    Returns:
        Fractions in [0, 1] under ``AR<limit>``, ``AR<limit>_s``, ``_m``, ``_l`` for every limit, with ``segm_`` in
        front for masks; ``None`` for a size class without ground truth.

    Raises:
        InputError: limits or thresholds that cannot be used.
    """
    ascending = check_limits(limits)
    _, recall = _evaluate(annotations, results, iou_type, ascending, area_thresholds, backend, False)
    return _recall_columns(recall, ascending, ascending, iou_type)


def _evaluate(
    annotations: dict[str, list[Record]],
    results: list[Record],
    iou_type: str,
    limits: tuple[int, ...],
    area_thresholds: Sequence[float],
    backend: Backend,
    use_categories: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision ``(T, R, K, A, M)`` and recall ``(T, K, A, M)``; -1 where there is no ground truth."""
    coco, evaluator_class = (
        (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
        if backend == "faster-coco-eval"
        else (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval)
    )
    # The evaluators' own reader of results fails on an empty list; it would only add these three keys.
    detections = [
        {**result, "id": number, "iscrowd": 0, "area": _area(result)} for number, result in enumerate(results, start=1)
    ]
    # The evaluators write into the records, so each gets its own.
    objects = [dict(annotation) for annotation in annotations["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        tables = []
        for records in (objects, detections):
            table = coco()
            table.dataset = {**annotations, "annotations": records}
            table.createIndex()
            tables.append(table)
        evaluator = evaluator_class(*tables, iouType=iou_type)
        evaluator.params.useCats = int(use_categories)
        evaluator.params.maxDets = list(limits)
        evaluator.params.areaRng = area_ranges(area_thresholds).tolist()
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _area(result: Record) -> float:
    """Area of a detection in px², which decides whether an unmatched one counts against a size class."""
    if "segmentation" in result:
        return float(mask_api.area(result["segmentation"]))
    return float(result["bbox"][2] * result["bbox"][3])


def _mean(cells: NDArray[Any]) -> float | None:
    known = cells[cells > -1]
    return float(known.mean()) if known.size else None


def _recall_columns(
    recall: NDArray[np.float64], all_limits: tuple[int, ...], limits: tuple[int, ...], iou_type: str
) -> dict[str, float | None]:
    prefix = "segm_" if iou_type == "segm" else ""
    return {
        prefix + recall_key(limit, suffix): _mean(recall[:, :, a, all_limits.index(limit)])
        for limit in limits
        for a, suffix in enumerate(AREA_SUFFIXES)
    }

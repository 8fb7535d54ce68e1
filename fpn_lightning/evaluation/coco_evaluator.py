"""COCO's average precision, and recall of boxes or masks, through COCO's own evaluator or its C++ counterpart.

``faster-coco-eval`` is the default for its speed, ``pycocotools`` the reference; both give the same cells. Values are
read from the evaluators' ``precision`` and ``recall`` arrays by limit, never from ``stats``: its positions are fixed
for three limits (FPN Table 6 needs 1,000 detections, COCO's summary knows 1, 10 and 100).

Shapes: T = 10 IoU thresholds 0.50, 0.55, ..., 0.95; R = 101 recall levels; K classes; A = 4 area ranges (all, small,
medium, large); L limits.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.evaluation.annotations import Record
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.proposal_recall import check_limits
from fpn_lightning.metric_names import AREA_SUFFIXES, recall_key

Backend = Literal["faster-coco-eval", "pycocotools"]
AP_LIMIT = 100  # COCO's AP looks at 100 detections an image and class, whatever the limits asked for


@dataclass(frozen=True)
class Cells:
    """What an evaluator found; -1 where there is no ground truth.

    Attributes:
        precision: float64 ``(T, R, K, A, L)``.
        recall: float64 ``(T, K, A, L)``.
        limits: ``(L,)`` detections kept per image and class, ascending.
        category_ids: ``(K,)``, ascending; of no meaning where classes were not told apart (K = 1).
        iou_type: IoU of boxes (``bbox``) or of masks (``segm``).
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    limits: tuple[int, ...]
    category_ids: tuple[int, ...]
    iou_type: str

    def precision_columns(self) -> dict[str, float | None]:
        """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``: means over classes with ground truth."""
        at_limit = self.precision[..., self.limits.index(AP_LIMIT)]
        columns = {
            "AP": at_limit[..., 0],
            "AP50": at_limit[0, ..., 0],
            "AP75": at_limit[5, ..., 0],
            "APs": at_limit[..., 1],
            "APm": at_limit[..., 2],
            "APl": at_limit[..., 3],
        }
        return {name: _mean(cells) for name, cells in columns.items()}

    def class_precision(self) -> dict[int, float | None]:
        """``AP`` of each class by category id, ascending."""
        at_limit = self.precision[..., 0, self.limits.index(AP_LIMIT)]
        return {category_id: _mean(at_limit[:, :, k]) for k, category_id in enumerate(self.category_ids)}

    def recall_columns(self, limits: Sequence[int]) -> dict[str, float | None]:
        """``AR<limit>``, ``AR<limit>_s``, ``_m``, ``_l`` of each limit, with ``segm_`` in front for masks."""
        prefix = "segm_" if self.iou_type == "segm" else ""
        return {
            prefix + recall_key(limit, suffix): _mean(self.recall[:, :, a, self.limits.index(limit)])
            for limit in limits
            for a, suffix in enumerate(AREA_SUFFIXES)
        }


def average_precision(
    annotations: dict[str, list[Record]],
    results: list[Record],
    iou_type: Literal["bbox", "segm"] = "bbox",
    limits: Sequence[int] = (1, 10, 100),
    area_thresholds: Sequence[float] = (32**2, 96**2),
    backend: Backend = "faster-coco-eval",
) -> tuple[dict[str, float | None], dict[int, float | None]]:
    """Average precision over classes, and recall per limit.

    Args:
        annotations: what ``read_annotations`` returned (``with_masks`` for ``segm``).
        results: what ``read_results`` returned for the same ``iou_type``.
        iou_type: IoU of boxes or of masks.
        limits: detections kept per image and class for ``AR<limit>``.
        area_thresholds: between small and medium and between medium and large objects, px² of the image file.
        backend: the evaluator.

    Returns:
        ``(values, class_values)``, fractions in [0, 1], ``None`` where there is no ground truth. Values: ``AP``,
        ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and the columns of :func:`class_agnostic_recall`. Class values:
        ``AP`` of each category id.

    Raises:
        InputError: limits or thresholds that cannot be used.
    """
    ascending = check_limits(limits)
    tables = _own_tables(annotations, results)
    cells = evaluate(*tables, with_ap_limit(ascending), area_thresholds, backend, iou_type)
    return cells.precision_columns() | cells.recall_columns(ascending), cells.class_precision()


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
    tables = _own_tables(annotations, results)
    return evaluate(*tables, ascending, area_thresholds, backend, iou_type, False).recall_columns(ascending)


def by_class_name(class_values: Mapping[int, float | None], names: Mapping[int, str]) -> dict[str, float | None]:
    """Values by name of class, best first, then the classes without ground truth.

    Args:
        class_values: value of each class; a class that is missing has none.
        names: name of each class; where two classes share a name, their ids are added to it.
    """
    shared = Counter(names.values())
    rows = [
        (name if shared[name] == 1 else f"{name} ({class_id})", class_values.get(class_id))
        for class_id, name in names.items()
    ]
    return dict(sorted(rows, key=lambda row: (row[1] is None, -(row[1] or 0), row[0])))


def with_ap_limit(limits: Sequence[int]) -> tuple[int, ...]:
    """The limits, ascending, with the one AP is read at among them."""
    return check_limits(tuple({*limits, AP_LIMIT}))


def evaluate(
    ground_truth: dict[str, list[Record]],
    detections: list[Record],
    limits: tuple[int, ...],
    area_thresholds: Sequence[float],
    backend: Backend,
    iou_type: str = "bbox",
    use_categories: bool = True,
) -> Cells:
    """Run an evaluator over records, into which it writes.

    Args:
        ground_truth: ``images``, ``annotations`` (ids from 1, with ``area`` and ``iscrowd``) and ``categories``.
        detections: COCO results with, besides, ``id`` from 1 and ``area``. Records and not arrays, since neither
            evaluator reads arrays: faster-coco-eval's ``loadRes`` makes a dictionary of each row of an array.
        limits: detections kept per image and class, ascending.
        area_thresholds: between small and medium and between medium and large objects, px² of the image file.
        backend: the evaluator.
        iou_type: IoU of boxes (``bbox``) or of masks (``segm``).
        use_categories: whether a detection must have the object's class.
    """
    coco, evaluator_class = (
        (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
        if backend == "faster-coco-eval"
        else (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        tables = []
        for records in (ground_truth["annotations"], detections):
            table = coco()
            table.dataset = {**ground_truth, "annotations": records}
            table.createIndex()
            tables.append(table)
        evaluator = evaluator_class(*tables, iouType=iou_type)
        evaluator.params.useCats = int(use_categories)
        evaluator.params.maxDets = list(limits)
        evaluator.params.areaRng = area_ranges(area_thresholds).tolist()
        evaluator.evaluate()
        evaluator.accumulate()
    category_ids = tuple(sorted(category["id"] for category in ground_truth["categories"])) if use_categories else (-1,)
    precision, recall = (np.asarray(evaluator.eval[name]) for name in ("precision", "recall"))
    return Cells(precision, recall, limits, category_ids, iou_type)


def _own_tables(
    annotations: dict[str, list[Record]], results: list[Record]
) -> tuple[dict[str, list[Record]], list[Record]]:
    """Copy the records, since evaluators write into them, and add to the results what an evaluator needs."""
    # The evaluators' own reader of results fails on an empty list; it would only add these three keys.
    detections = [
        {**result, "id": number, "iscrowd": 0, "area": _area(result)} for number, result in enumerate(results, start=1)
    ]
    return {**annotations, "annotations": [dict(item) for item in annotations["annotations"]]}, detections


def _area(result: Record) -> float:
    """Area of a detection in px², which decides whether an unmatched one counts against a size class."""
    if "segmentation" in result:
        return float(mask_api.area(result["segmentation"]))
    return float(result["bbox"][2] * result["bbox"][3])


def _mean(cells: NDArray[Any]) -> float | None:
    known = cells[cells > -1]
    return float(known.mean()) if known.size else None

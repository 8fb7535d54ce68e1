"""Scores a result file or a proposal store over all images of an annotation file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from fpn_lightning.data.coco.areas import area_remarks
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.evaluation.coco_evaluator import Records, Values, average_precision, by_class_name
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.recall import Counts, check_limits, count_boxes, count_segments, recall_values
from fpn_lightning.evaluation.results import ResultTable, StoredResults, read_results
from fpn_lightning.ground_truth import GroundTruth


def all_images(
    index: COCOIndex, results: ResultTable | StoredResults, with_masks: bool = False
) -> Iterator[tuple[FileResults, GroundTruth]]:
    """Yield the results and the objects of every image of an annotation file, including images without results.

    Raises:
        InputError: if ``with_masks`` is true and an object has no valid mask. The message names the object.
    """
    for row, image_id in enumerate(index.image_ids.tolist()):
        annotation_ids, boxes, areas, is_crowd, labels = index.objects_of(row)
        masks = index.masks_of(row) if with_masks else []
        yield results.of(image_id), GroundTruth(image_id, boxes, areas, is_crowd, labels, annotation_ids, masks)


def score_files(arguments: argparse.Namespace) -> tuple[Values, Values]:
    """Read the annotation file and the results, and score the results with the options of the command line.

    Returns:
        The metrics, and AP by class name (empty for class-agnostic recall).
    """
    metric, thresholds, stored = arguments.metric, arguments.area_thresholds, arguments.results.is_dir()
    with_masks = metric == "segm"
    with_classes = metric != "proposals" and not arguments.class_agnostic
    default = (1, 10, 100) if with_classes else (10, 30, 100, 1000) if metric == "proposals" else (10, 100, 1000)
    # Check the settings first, because reading the files may take minutes.
    limits, ranges = check_limits(arguments.limits or default), area_ranges(thresholds)
    if arguments.per_class and not with_classes:
        raise InputError(
            "--per-class needs AP: use --metric bbox or segm without --class-agnostic, or remove --per-class"
        )
    if stored and metric != "proposals":
        raise InputError(
            f"{arguments.results} is a folder; give a result file, or score a proposal store with --metric proposals"
        )
    index = COCOIndex.open(arguments.annotations, arguments.labels, only_boxes=not with_masks)
    for remark in area_remarks(index):
        print(f"note: {remark}", file=sys.stderr)
    if not index.has_annotations:
        raise InputError(f"{arguments.annotations}: has no list 'annotations'; give a COCO instances file")
    results = (
        StoredResults(arguments.results, index.fingerprint)
        if stored
        else read_results(arguments.results, index, with_masks, with_classes)
    )
    if isinstance(results, ResultTable) and not results.rows:
        print(f"note: {arguments.results} contains no results, so all metrics are 0", file=sys.stderr)
    images = all_images(index, results, with_masks)
    if not with_classes:
        count, prefix = (count_segments, "segm_") if with_masks else (count_boxes, "")
        total = Counts(np.zeros((1, 1, 1), dtype=np.int64), np.zeros(1, dtype=np.int64))
        for found, truth in images:
            counts = count(found, truth, ranges, limits)
            total = Counts(total.matched + counts.matched, total.objects + counts.objects)
        return recall_values(total, limits, prefix), {}
    records = Records("segm" if with_masks else "bbox")
    for found, truth in images:
        records.add(found, truth)
    values, by_label = average_precision(records, limits, thresholds, arguments.backend)
    category_ids = index.categories.ids
    by_id = {category_id: by_label.get(label) for label, category_id in enumerate(category_ids)}
    return values, by_class_name(by_id, dict(zip(category_ids, index.categories.names, strict=True)))

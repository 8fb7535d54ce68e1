"""Score a COCO result file or a store of proposals: ``python -m fpn_lightning.evaluation ANNOTATIONS RESULTS …``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.coco.labels import Labels
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.coco_evaluator import Backend, Records, Values, average_precision, by_class_name
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.proposal_recall import ProposalRecall, check_limits
from fpn_lightning.evaluation.results import ResultTable, StoredResults, read_results
from fpn_lightning.evaluation.segment_recall import SegmentRecall
from fpn_lightning.files import write_whole
from fpn_lightning.metric_names import percent
from fpn_lightning.structures import GroundTruth


def update_with_all_images(
    update: Callable[[Any, GroundTruth], None],
    index: COCOIndex,
    results: ResultTable | StoredResults,
    with_masks: bool = False,
) -> None:
    """Update a metric with every image of an annotation file; images without results count too.

    Args:
        update: called with the results and the objects of one image.
        index: the annotation file.
        results: what is scored.
        with_masks: give objects their masks.

    Raises:
        InputError: naming the object that has no usable mask.
    """
    for row, image_id in enumerate(index.image_ids.tolist()):
        annotation_ids, boxes, areas, is_crowd, labels = index.objects_of(row)
        masks = index.masks_of(row) if with_masks else []
        ground_truth = GroundTruth(image_id, boxes, areas, is_crowd, labels, annotation_ids, masks)
        update(results.of(image_id), ground_truth)


def score_files(arguments: argparse.Namespace) -> tuple[Values, Values]:
    """Read both files and score them as the command line asks.

    Returns:
        The metrics, and AP by name of class (empty where classes do not matter).
    """
    metric, thresholds, stored = arguments.metric, arguments.area_thresholds, arguments.results.is_dir()
    with_masks = metric == "segm"
    with_classes = metric != "proposals" and not arguments.class_agnostic
    default = (1, 10, 100) if with_classes else (10, 30, 100, 1000) if metric == "proposals" else (10, 100, 1000)
    limits = arguments.limits or default
    # Settings first: files may take minutes to read.
    area_ranges(thresholds)
    check_limits(limits)
    if arguments.per_class and not with_classes:
        raise InputError("--per-class goes with --metric bbox or segm, without --class-agnostic; drop one of them")
    if stored and metric != "proposals":
        raise InputError(f"{arguments.results} is a folder, so a store of proposals: score it with --metric proposals")
    index = COCOIndex.open(arguments.annotations, arguments.labels)
    if not index.has_annotations:
        raise InputError(f"{arguments.annotations}: has no list 'annotations'; give a COCO instances file")
    results = (
        StoredResults(arguments.results, index.fingerprint)
        if stored
        else read_results(arguments.results, index, with_masks, with_classes)
    )
    if not with_classes:
        recall = (SegmentRecall if with_masks else ProposalRecall)(limits, thresholds)
        update_with_all_images(recall.update, index, results, with_masks)
        return recall.compute(), {}
    records = Records("segm" if with_masks else "bbox")
    update_with_all_images(records.add, index, results, with_masks)
    values, by_label = average_precision(records, limits, thresholds, arguments.backend)
    category_ids = index.categories.ids
    by_id = {category_id: by_label.get(label) for label, category_id in enumerate(category_ids)}
    return values, by_class_name(by_id, dict(zip(category_ids, index.categories.names, strict=True)))


def write_json(path: Path, values: Mapping[str, float | Values | None]) -> None:
    """Write metrics as JSON, whole or not at all."""
    try:
        write_whole(path, json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give a file in a folder you own") from error


def _table(values: Values, title: str, rows: str) -> Table:
    table = Table(title=title)
    table.add_column(rows)
    table.add_column("× 100", justify="right")
    for name, value in values.items():
        table.add_row(name, "–" if value is None else f"{percent(value):.2f}")
    return table


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fpn_lightning.evaluation",
        description="Score a COCO result file over all images of an annotation file.",
    )
    parser.add_argument("annotations", type=Path, help="COCO instances file")
    parser.add_argument(
        "results",
        type=Path,
        help="COCO result list: image_id, bbox (xywh) or segmentation, score; or a store of proposals (a folder)",
    )
    parser.add_argument(
        "--metric",
        required=True,
        choices=("proposals", "bbox", "segm"),
        help="proposals: class-agnostic recall of boxes (Table 1); bbox, segm: AP and recall of boxes or masks",
    )
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="with bbox or segm: class-agnostic recall (Table 6) instead of AP; proposals are always class-agnostic",
    )
    parser.add_argument(
        "--labels",
        choices=get_args(Labels),
        default="category",
        help="classes: categories, or supercategories for the results of a model with data.labels supercategory",
    )
    parser.add_argument(
        "--limits",
        type=int,
        nargs="+",
        help="detections kept per image; default: 10 30 100 1000 for proposals, 10 100 1000 with --class-agnostic, "
        "else 1 10 100. AP always uses 100",
    )
    parser.add_argument(
        "--area-thresholds",
        type=float,
        nargs=2,
        default=(32**2, 96**2),
        metavar=("SMALL", "LARGE"),
        help="areas in px² between small, medium and large objects (default: 1024 9216)",
    )
    parser.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="faster-coco-eval",
        help="evaluator of AP; class-agnostic recall is counted by this package and equals both",
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="also give the AP of each class, best first; in --output under per_class. With bbox or segm",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="write the metrics as fractions to this JSON file; null where there is no ground truth",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (2 for input that cannot be used)."""
    arguments = build_parser().parse_args(args)
    try:
        values, class_values = score_files(arguments)
        title = f"{arguments.results.name}: {arguments.metric}"
        Console().print(_table(values, title, "metric"))
        if arguments.per_class:
            Console().print(_table(class_values, f"{title} by class", "AP of"))
        if arguments.output is not None:
            write_json(arguments.output, {**values, "per_class": class_values} if arguments.per_class else values)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

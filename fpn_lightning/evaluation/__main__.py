"""Score a COCO result file or a store of proposals: ``python -m fpn_lightning.evaluation ANNOTATIONS RESULTS …``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.annotations import Record, read_annotations
from fpn_lightning.evaluation.coco_evaluator import Backend, average_precision, by_class_name, class_agnostic_recall
from fpn_lightning.evaluation.matching import area_ranges
from fpn_lightning.evaluation.proposal_recall import ProposalRecall, check_limits
from fpn_lightning.evaluation.results import ProposalTable, read_proposals, read_results
from fpn_lightning.evaluation.stored_proposals import StoredResults
from fpn_lightning.files import write_whole
from fpn_lightning.metric_names import percent
from fpn_lightning.structures import GroundTruth

Values = dict[str, float | None]


def score_proposals(
    annotations: dict[str, list[Record]],
    proposals: ProposalTable | StoredResults,
    limits: Sequence[int],
    area_thresholds: Sequence[float],
) -> Values:
    """Recall of proposals over every image of an annotation file; images without proposals count too."""
    objects: dict[int, list[Record]] = {image["id"]: [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    metric = ProposalRecall(limits, area_thresholds)
    for image_id, annotated in objects.items():
        ground_truth = GroundTruth(
            image_id,
            np.array([item["bbox"] for item in annotated]),
            np.array([item["area"] for item in annotated]),
            np.array([item["iscrowd"] for item in annotated]),
            np.array([item["category_id"] for item in annotated]),
        )
        metric.update(proposals.of(image_id), ground_truth)
    return metric.compute()


def score_files(arguments: argparse.Namespace) -> tuple[Values, Values]:
    """Read both files and score them as the command line asks.

    Returns:
        The metrics, and AP by name of class (empty where classes are not told apart).
    """
    # Settings first: files may take minutes to read.
    area_ranges(arguments.area_thresholds)
    limits = arguments.limits
    if limits is not None:
        check_limits(limits)
    metric, thresholds, backend = arguments.metric, arguments.area_thresholds, arguments.backend
    if arguments.per_class and (metric == "proposals" or arguments.class_agnostic):
        raise InputError("--per-class goes with --metric bbox or segm, without --class-agnostic; drop one of them")
    stored = arguments.results.is_dir()
    if stored and metric != "proposals":
        raise InputError(f"{arguments.results} is a folder, so a store of proposals: score it with --metric proposals")
    annotations = read_annotations(arguments.annotations, with_masks=metric == "segm")
    if metric == "proposals":
        proposals: ProposalTable | StoredResults
        if stored:
            proposals = StoredResults(arguments.results, arguments.annotations)
        else:
            proposals = read_proposals(arguments.results, {image["id"] for image in annotations["images"]})
        return score_proposals(annotations, proposals, limits or (10, 30, 100, 1000), thresholds), {}
    results = read_results(arguments.results, annotations, metric, arguments.class_agnostic)
    if arguments.class_agnostic:
        limits = limits or (10, 100, 1000)
        return class_agnostic_recall(annotations, results, metric, limits, thresholds, backend), {}
    values, class_values = average_precision(annotations, results, metric, limits or (1, 10, 100), thresholds, backend)
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    return values, by_class_name(class_values, names)


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
        help="with bbox or segm: recall whatever the class (Table 6) in place of AP; proposals are so anyway",
    )
    parser.add_argument(
        "--limits",
        type=int,
        nargs="+",
        help="detections kept per image; default: 10 30 100 1000 for proposals, 10 100 1000 with --class-agnostic, "
        "else 1 10 100. AP always looks at 100",
    )
    parser.add_argument(
        "--area-thresholds",
        type=float,
        nargs=2,
        default=(32**2, 96**2),
        metavar=("SMALL", "LARGE"),
        help="px² between small, medium and large objects (default: 1024 9216)",
    )
    parser.add_argument(
        "--backend", choices=get_args(Backend), default="faster-coco-eval", help="evaluator of bbox and segm"
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="also the AP of each class, best first; in --output under per_class. With bbox or segm",
    )
    parser.add_argument("--output", type=Path, help="write the fractions to this JSON file; null: no ground truth")
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

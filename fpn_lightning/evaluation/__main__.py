"""Score a COCO result file or a store of proposals: ``python -m fpn_lightning.evaluation ANNOTATIONS RESULTS …``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpn_lightning.data.coco.labels import Labels
from fpn_lightning.errors import InputError, complain
from fpn_lightning.evaluation import Backend
from fpn_lightning.files import write_whole
from fpn_lightning.metric_names import percent, size_classes
from fpn_lightning.text import plain, replace_unprintable, show

Values = dict[str, float | None]


def write_json(path: Path, values: Mapping[str, float | Values | None]) -> None:
    """Write metrics to a JSON file."""
    try:
        write_whole(path, json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give a file in another folder") from error


def _table(values: Values, title: str, rows: str) -> Table:
    table = Table(title=Text(plain(title)))
    table.add_column(rows)
    table.add_column("× 100", justify="right")
    for name, value in values.items():
        table.add_row(Text(plain(name)), "–" if value is None else f"{percent(value):.2f}")
    return table


def build_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="python -m fpn_lightning.evaluation",
        description="Score a COCO result file or a proposal store over all images of an annotation file.",
    )
    parser.add_argument("annotations", type=Path, help="COCO instances file")
    parser.add_argument(
        "results",
        type=Path,
        help="COCO result file, or a proposal store (the folder RUN/proposals/SPLIT). Each entry of a result "
        "file has image_id, score and bbox (xywh) or segmentation. With --metric proposals or bbox, an entry that has "
        "no bbox is scored by the box around its segmentation",
    )
    parser.add_argument(
        "--metric",
        required=True,
        choices=("proposals", "bbox", "segm"),
        help="proposals: class-agnostic recall of boxes (Table 1); bbox: AP and AR of boxes; segm: AP and AR of masks",
    )
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="with --metric bbox or segm: compute class-agnostic recall (as in Table 6) instead of AP; "
        "--metric proposals is always class-agnostic",
    )
    parser.add_argument(
        "--labels",
        choices=get_args(Labels),
        default="category",
        help="classes to evaluate; choose supercategory if the model was trained with data.labels supercategory",
    )
    parser.add_argument(
        "--limits",
        type=int,
        nargs="+",
        help="numbers of detections per image for which AR is computed. Default: 10 30 100 1000 for proposals; "
        "10 100 1000 with --class-agnostic; otherwise 1 10 100. AP always uses 100 detections",
    )
    parser.add_argument(
        "--area-thresholds",
        type=float,
        nargs=2,
        default=(32**2, 96**2),
        metavar=("SMALL", "LARGE"),
        help="two areas in px² that separate small, medium and large objects (default: 1024 9216)",
    )
    parser.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="faster-coco-eval",
        help="library that computes AP; not used for class-agnostic recall",
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="with --metric bbox or segm: print the AP of each class, best first, and write it to --output "
        "as per_class",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="write the metrics to this JSON file as fractions in [0, 1]; a metric without ground truth is null",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 for invalid input."""
    arguments = build_parser().parse_args(args)
    # Imported here, because the import is slow and --help does not need it.
    from fpn_lightning.evaluation.scoring import score_files

    replace_unprintable()
    try:
        scored = [path.resolve() for path in (arguments.annotations, arguments.results)]
        if arguments.output is not None and arguments.output.resolve() in scored:
            raise InputError(f"--output {arguments.output} would overwrite an input file; give another path")
        values, class_values = score_files(arguments)
        title = f"{arguments.results.name}: {arguments.metric}"
        Console().print(_table(values, title, "metric"))
        show(f"size classes: {size_classes(arguments.area_thresholds)}")
        one_class = arguments.metric == "proposals" or arguments.class_agnostic
        show(f"AR: {'class-agnostic recall' if one_class else 'recall, averaged over the classes'}")
        if arguments.per_class:
            Console().print(_table(class_values, f"{title} by class", "AP of"))
        if arguments.output is not None:
            write_json(arguments.output, {**values, "per_class": class_values} if arguments.per_class else values)
    except InputError as error:
        return complain(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())

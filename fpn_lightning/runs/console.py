"""Prints the log messages and the metrics of a run on the terminal."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpn_lightning.metric_names import COCO_AREAS, SIZES, percent, size_classes, size_keys
from fpn_lightning.runs.record import FINISHED, Metrics, Record
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.text import plain, replace_unprintable, show

PACKAGE = Path(__file__).parents[1]
NOISE = re.compile(r"Tip:|=1\.0\)` was configured")  # Lightning's tips, and messages that only repeat the configuration
MAX_CLASSES = 30
"""Largest number of classes for which the AP of each class is printed without ``--verbose true``."""


class StderrHandler(logging.StreamHandler[TextIO]):
    """A log handler that writes to the current ``sys.stderr``.

    A progress bar replaces ``sys.stderr`` while it is shown, so that messages appear on their own lines.
    """

    def __init__(self, formatter: logging.Formatter | None = None) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging() -> None:
    """Show the messages of this package and of Lightning, without Lightning's tips and irrelevant warnings."""
    replace_unprintable()
    own = logging.getLogger("fpn_lightning")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(StderrHandler())
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
            logger.removeHandler(handler)
            logger.addHandler(StderrHandler(handler.formatter))
    warnings.formatwarning = _as_line
    advertisements = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisements.addFilter(lambda record: not NOISE.search(record.getMessage()))
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Found .* module.s. in eval mode")  # frozen BatchNorm
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")  # in short runs
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # of a resumed run


def _as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning in one line, with file and line number if it comes from another package."""
    ours = Path(filename).is_relative_to(PACKAGE)
    return f"warning: {plain(message)}\n" if ours else f"{filename}:{lineno}: {plain(message)}\n"


def print_metrics(
    title: str,
    metrics: Metrics,
    area_thresholds: Sequence[float] = COCO_AREAS,
    per_class: Metrics | None = None,
    all_classes: bool = False,
    recall_of: str = "",
) -> None:
    """Print a table of metrics in percent, and then the AP of each class.

    The table has one line per metric and one column per object size. A cell is "–" if no annotated object has this
    size. A cell is empty if COCO does not split the metric by size.

    Args:
        title: heading of the table.
        metrics: metrics as fractions, by name. ``AR100_s`` is printed in line ``AR100``, column ``small``; ``APs`` in
            line ``AP``.
        area_thresholds: the two areas (px²) that separate small, medium and large objects.
        per_class: AP of each class by its name, best first.
        all_classes: whether to print the AP of each class if there are more than 30 classes.
        recall_of: the boxes whose recall is AR, for example ``proposals, class-agnostic``; printed below the table
            unless it is empty.
    """
    table = Table("", "all", *SIZES.values(), title=Text(plain(title)), title_justify="left")
    by_size = {name: [key for key in size_keys(name) or () if key in metrics] for name in metrics}
    of_a_size = {key for keys in by_size.values() for key in keys}
    for name in (name for name in metrics if name not in of_a_size):
        table.add_row(Text(plain(name)), *(_cell(metrics[key]) for key in (name, *by_size[name])))
    Console().print(table)
    show(f"size classes: {size_classes(area_thresholds)}")
    if recall_of:
        show(f"AR: recall of {recall_of}")
    if per_class and (all_classes or len(per_class) <= MAX_CLASSES):
        table = Table("class", "AP")
        for name, value in per_class.items():
            table.add_row(Text(plain(name)), _cell(value))
        Console().print(table)
    elif per_class:
        show(f"To print the AP of the {len(per_class)} classes: --verbose true")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{percent(value):.1f}"


def print_evaluation(title: str, stage: BaseStage, all_classes: bool = False) -> None:
    """Print the metrics of a stage's last evaluation; see :func:`print_metrics`."""
    thresholds = stage.detector.scale.area_thresholds
    print_metrics(title, stage.evaluation, thresholds, stage.per_class, all_classes, stage.recall_of)


class MetricsTable(Callback):
    """Prints the metrics of every validation of a run except the last, also of the untrained model.

    Args:
        title: heading of the table, without the step.
        all_classes: see :func:`print_metrics`.
    """

    def __init__(self, title: str, all_classes: bool) -> None:
        self.title = title
        self.all_classes = all_classes

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a table above the progress bar."""
        at_the_end = trainer.global_step == trainer.max_steps  # print_record prints these metrics
        within = trainer.global_step == 0 or (trainer.state.fn == "fit" and not at_the_end)
        if within and trainer.is_global_zero and not trainer.sanity_checking:
            assert isinstance(pl_module, BaseStage)
            untrained = ", before training" if trainer.global_step == 0 else ""
            print_evaluation(f"{self.title}, step {trainer.global_step}{untrained}", pl_module, self.all_classes)


def print_record(record: Record, path: Path, stage: BaseStage, all_classes: bool = False) -> None:
    """Print the metrics of a run. If the run is not finished, also print the reason and how to continue the run."""
    print_evaluation(f"{record.experiment.table}/{record.experiment.row}", stage, all_classes)
    show(f"written to {path}")
    if record.status != FINISHED:
        show(
            f"The run is not finished, so tables leave it out: {record.outcome}. To continue the run: --ckpt_path last"
        )

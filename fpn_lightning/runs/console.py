"""What a run prints on the terminal: log messages and its metrics."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpn_lightning.metric_names import AREA_SUFFIXES, COCO_AREAS, SIZES, percent, size_classes
from fpn_lightning.runs.record import FINISHED, Record
from fpn_lightning.text import plain, replace_unprintable, show


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to ``sys.stderr`` as it is now: a progress bar replaces it, so that messages get lines of their own."""

    def __init__(self, formatter: logging.Formatter | None = None) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging() -> None:
    """Show our own messages and Lightning's; hide its tips and a warning that only its authors can fix."""
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
    advertisements.addFilter(lambda record: "Tip:" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def _as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as Lightning shows it, in one line."""
    return f"{filename}:{lineno}: {plain(message)}\n"


def print_metrics(
    title: str, metrics: dict[str, float | None], path: Path, area_thresholds: Sequence[float] = COCO_AREAS
) -> None:
    """Print metrics in percent, one line for each and one column for each object size, and the path of their file.

    Args:
        title: heading of the table.
        metrics: fractions; ``AR100_s`` stands in the line ``AR100``, column ``small``.
        path: the file that holds them.
        area_thresholds: px² between small, medium and large objects.
    """
    table = Table("", "all", *SIZES.values(), title=Text(plain(title)), title_justify="left")
    for name in (name for name in metrics if name[-2:] not in AREA_SUFFIXES):
        cells = (metrics.get(name + suffix) for suffix in AREA_SUFFIXES)
        table.add_row(Text(plain(name)), *("–" if value is None else f"{percent(value):.1f}" for value in cells))
    Console().print(table)
    show(f"size classes: {size_classes(area_thresholds)}")
    show(f"written to {path}")


def print_record(record: Record, path: Path) -> None:
    """Print what a run measured and, if it is not finished, why not and how it goes on."""
    print_metrics(f"{record.experiment.table}/{record.experiment.row}", record.metrics, path, record.area_thresholds)
    if record.status != FINISHED:
        show(f"not finished, so not in tables: {record.outcome}. To continue: --ckpt_path last")

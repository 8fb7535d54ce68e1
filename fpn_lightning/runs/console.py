"""What a run prints on the terminal: log messages and its metrics."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpn_lightning.metric_names import AREA_SUFFIXES, COCO_AREAS, SIZES, percent, size_classes
from fpn_lightning.text import plain, replace_unprintable, show


def set_up_logging() -> None:
    """Show our own messages and each warning as a line; hide Lightning's tips and a warning for its authors."""
    replace_unprintable()
    own = logging.getLogger("fpn_lightning")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
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

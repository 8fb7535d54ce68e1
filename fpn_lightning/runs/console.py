"""What a run prints on the terminal: log messages and its metrics."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fpn_lightning.metric_names import AREA_SUFFIXES, COCO_AREAS, SIZES, percent, size_classes


def set_up_logging() -> None:
    """Show our own messages; hide Lightning's tips and a warning that only its authors can fix."""
    own = logging.getLogger("fpn_lightning")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
    advertisements = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisements.addFilter(lambda record: "Tip:" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


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
    table = Table("", "all", *SIZES.values(), title=title, title_justify="left")
    for name in (name for name in metrics if name[-2:] not in AREA_SUFFIXES):
        cells = (metrics.get(name + suffix) for suffix in AREA_SUFFIXES)
        table.add_row(name, *("–" if value is None else f"{percent(value):.1f}" for value in cells))
    console = Console()
    console.print(table)
    console.print(f"size classes: {size_classes(area_thresholds)}", soft_wrap=True, highlight=False)
    console.print(f"written to {path}", soft_wrap=True)

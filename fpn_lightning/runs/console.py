"""What a run prints on the terminal: log messages and its metrics."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fpn_lightning.metric_names import AREA_SUFFIXES, SIZES, percent


def set_up_logging() -> None:
    """Show our own messages; hide Lightning's tips and a warning that only its authors can fix."""
    own = logging.getLogger("fpn_lightning")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
    advertisements = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisements.addFilter(lambda record: "Tip:" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def print_metrics(title: str, metrics: dict[str, float | None], path: Path) -> None:
    """Print metrics in percent, one line for each and one column for each object size, and the path of their file.

    Args:
        title: heading of the table.
        metrics: fractions; ``AR100_s`` stands in the line ``AR100``, column ``small``.
        path: the file that holds them.
    """
    table = Table("", "all", *SIZES.values(), title=title, title_justify="left")
    for name in (name for name in metrics if name[-2:] not in AREA_SUFFIXES):
        cells = (metrics.get(name + suffix) for suffix in AREA_SUFFIXES)
        table.add_row(name, *("–" if value is None else f"{percent(value):.1f}" for value in cells))
    console = Console()
    console.print(table)
    console.print(f"written to {path}", soft_wrap=True)

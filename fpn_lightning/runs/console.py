"""What the command line says: messages, complaints, and the metrics of a run."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

SIZE_CLASSES = {"": "all", "_s": "small", "_m": "medium", "_l": "large"}


def set_up_logging() -> None:
    """Show our own messages; drop Lightning's advertisements and a warning that only its authors can mend."""
    own = logging.getLogger("fpn_lightning")
    own.setLevel(logging.INFO)
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
    advertisements = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisements.addFilter(lambda record: "Tip:" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def print_metrics(title: str, metrics: dict[str, float | None], path: Path) -> None:
    """Print metrics × 100, a line for each and a column for each size class, and where they were written.

    Args:
        title: of the table.
        metrics: fractions; ``AR100_s`` goes into the line ``AR100``, column ``small``.
        path: the file that holds them.
    """
    table = Table("", *SIZE_CLASSES.values(), title=title, title_justify="left")
    for name in (name for name in metrics if name[-2:] not in SIZE_CLASSES):
        cells = (metrics.get(name + suffix) for suffix in SIZE_CLASSES)
        table.add_row(name, *("–" if value is None else f"{100 * value:.1f}" for value in cells))
    console = Console()
    console.print(table)
    console.print(f"written to {path}", soft_wrap=True)

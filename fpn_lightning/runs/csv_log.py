"""A CSV log that survives resuming: rows are appended, columns may be added, rows from the resumed step on are dropped.

Lightning's own CSV logger deletes an earlier file of the same directory.
"""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from fpn_lightning.files import write_whole


class AppendingCSVLogger(Logger):
    """Writes ``metrics.csv``: one row per logged step, first column ``step``.

    Args:
        directory: of the run; the file is created with its first row.
        resume_step: rows of an earlier part of the run from this step on are dropped (they will be computed again);
            ``None`` keeps all of them.
    """

    def __init__(self, directory: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.directory = directory
        self.path = directory / "metrics.csv"
        self._columns = ["step"]
        self._rows: list[dict[str, str]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._rows = [row for row in reader if resume_step is None or _stays(row, resume_step)]
                self._columns = list(reader.fieldnames or self._columns)
            if resume_step is not None:
                write_whole(self.path, self._format(self._rows, header=True))

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """A run directory holds one run, hence one version."""
        return ""

    @property
    def root_dir(self) -> str:
        """Where Lightning looks for the log directory."""
        return str(self.directory)

    @property
    def save_dir(self) -> str:
        """Where Lightning puts what belongs to the log."""
        return str(self.directory)

    @property
    def log_dir(self) -> str:
        """Where Lightning puts what belongs to the log."""
        return str(self.directory)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved configuration stands in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row; the file is rewritten whole where a value needs a new column."""
        values = {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        row = {"step": str(step or 0), **values}
        known = next((old for old in reversed(self._rows) if _same_measurement(old, row)), None)
        if known is not None:  # a resumed run evaluates again what it had evaluated before it was stopped
            known.update(row)
        else:
            self._rows.append(row)
        new_columns = [name for name in values if name not in self._columns]
        if new_columns or known is not None or not self.path.exists():
            self._columns += new_columns
            write_whole(self.path, self._format(self._rows, header=True))
        else:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._format([row], header=False))

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """All values logged so far, by name: points (step, value)."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in self._rows:
            for name, value in row.items():
                if name != "step" and value:
                    curves.setdefault(name, []).append((int(row["step"]), float(value)))
        return curves

    def _format(self, rows: list[dict[str, str]], header: bool) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()


def _stays(row: dict[str, str], resume_step: int) -> bool:
    """Whether a row stands for work that the checkpoint of ``resume_step`` contains.

    Training counts the step it takes, from 0, evaluation the steps taken before it.
    """
    trained = any(value for name, value in row.items() if name.startswith("train/"))
    return int(row["step"]) < resume_step + (not trained)


def _same_measurement(old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether two rows hold the same columns of the same step."""
    return old["step"] == new["step"] and {name for name, value in old.items() if value} == new.keys()

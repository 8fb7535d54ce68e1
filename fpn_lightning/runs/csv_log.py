"""A CSV log that a resumed run continues. Lightning's own CSV logger would delete the earlier log."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole, writing


class AppendingCSVLogger(Logger):
    """Writes ``metrics.csv``, with one line per logged measurement.

    The first column is ``step``. A new metric adds a column.

    Args:
        directory: the run's directory; the file is created when the first line is logged.
        resume_step: step of the checkpoint that the run continues from. Lines that were logged after the checkpoint are
            dropped, because the run logs them again. ``None`` keeps all complete lines. An incomplete last line, left
            by a full disk or a power cut, is always dropped.
    """

    def __init__(self, directory: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.directory = directory
        self.path = directory / "metrics.csv"
        self._columns = ["step"]
        self._lines: list[dict[str, str]] = []
        if self.path.exists():
            self._columns, lines, unfinished = _read(self.path)
            self._lines = [line for line in lines if resume_step is None or _stays(line, resume_step)]
            if unfinished or resume_step is not None:
                self._rewrite()

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty, because the log of a run has only one version."""
        return ""

    @property
    def root_dir(self) -> str:
        """The run's directory. Lightning uses ``root_dir`` as the parent folder of all versions of a log."""
        return str(self.directory)

    @property
    def save_dir(self) -> str:
        """The run's directory. Lightning uses ``save_dir`` as the folder of other files, such as checkpoints."""
        return str(self.directory)

    @property
    def log_dir(self) -> str:
        """The run's directory. Lightning uses ``log_dir`` as the folder of the current version of a log."""
        return str(self.directory)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because ``config.yaml`` already contains the resolved configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line. If a metric needs a new column, rewrite the whole file."""
        values = {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        line = {"step": str(step or 0), **values}
        known = next((old for old in reversed(self._lines) if _same_measurement(old, line)), None)
        if known is not None:  # a resumed run repeats an evaluation that was already logged
            known.update(line)
        else:
            self._lines.append(line)
        new_columns = [name for name in values if name not in self._columns]
        if new_columns or known is not None or not self.path.exists():
            self._columns += new_columns
            self._rewrite()
        else:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(self._format([line], header=False))
                file.flush()
                os.fsync(file.fileno())  # the line must be on disk before the next checkpoint is saved

    @rank_zero_only
    def _rewrite(self) -> None:
        write_whole(self.path, self._format(self._lines, header=True))

    def lines(self) -> list[tuple[int, dict[str, float]]]:
        """Return all lines logged so far: for each line, the step and a dictionary from metric name to value."""
        return [
            (int(line["step"]), {name: float(value) for name, value in line.items() if name != "step" and value})
            for line in self._lines
        ]

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return all values logged so far: for each metric name, a list of (step, value)."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for step, values in self.lines():
            for name, value in values.items():
                curves.setdefault(name, []).append((step, value))
        return curves

    def _format(self, lines: list[dict[str, str]], header: bool) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(lines)
        return buffer.getvalue()


def _read(path: Path) -> tuple[list[str], list[dict[str, str]], str]:
    """Return the columns and lines of a log, and the text of an incomplete last line.

    Raises:
        InputError: if a line has no step, a value that is not a number, or more values than there are columns.
    """
    try:
        whole, _, unfinished = path.read_text(encoding="utf-8").rpartition("\n")
        reader = csv.DictReader(whole.splitlines(), strict=True)
        lines = []
        for line in reader:
            int(line["step"])
            for name, value in line.items():
                float(value or "0" if name is not None else "no such column")
            lines.append(line)
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged ({error}). Correct the file by hand, or move the file to another folder. Without the "
            "file, the run continues, but its record lacks the earlier curves."
        ) from error
    return list(reader.fieldnames or ["step"]), lines, unfinished


def _stays(line: dict[str, str], resume_step: int) -> bool:
    """Return whether a line of the log is kept when the run resumes after ``resume_step`` steps.

    The ``step`` of a training line is the index of the training step, from 0. The ``step`` of an evaluation line is the
    number of steps taken before the evaluation.
    """
    trained = any(value for name, value in line.items() if name.startswith("train/"))
    return int(line["step"]) < resume_step + (not trained)


def _same_measurement(old: dict[str, str], new: dict[str, str]) -> bool:
    """Return whether two lines of the log have the same step and fill the same columns."""
    return old["step"] == new["step"] and {name for name, value in old.items() if value} == new.keys()

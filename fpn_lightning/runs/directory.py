"""Names runs and their folders: ``runs/<preset>/<table>/<row>/seed<n>/``.

A variant of a row, for instance with another learning rate, has the folder ``.../<row>/<variant>/seed<n>/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.runs.record import FINISHED, Experiment, Record
from fpn_lightning.text import is_folder_name

RECORD_NAME = "metrics.json"


@dataclass
class ExperimentOptions:
    """Name of the run, and names of the runs that have to be trained before it."""

    table: str = ""
    """Table (or figure) of the paper that the run belongs to, for example ``table1``."""
    row: str = ""
    """Row of the table, for example ``c_fpn``."""
    variant: str = ""
    """Name of a variant of the row, for example ``lr0.002``; needed if the command line changes values of the row. The
    variant gets its own folder, and its own line below the row in the table."""
    preset: str = "paper"
    """Preset of the run; ``paper`` if ``--preset`` is not given."""
    proposals_of: str = ""
    """Row whose run with the same preset and seed provides the proposals, for example ``table1/c_fpn``. Ignored if
    ``data.proposals`` is set."""
    weights_of: str = ""
    """Row whose last checkpoint provides the initial weights, for example ``table2/c_fpn``. The checkpoint is that of
    the run with the same preset and seed. Ignored if ``model.init_from`` is set."""
    root: str = "runs"
    """Folder of all runs."""
    output: str = ""
    """Folder that ``validate``, ``test`` and ``predict`` write to; by default ``<run>/<subcommand>``."""
    overwrite: bool = False
    """Let ``fit`` replace an earlier run of the same row, preset and seed. The earlier run is deleted when the new run
    has finished. Let ``predict`` replace proposals that were made with other weights."""
    evaluate_untrained: bool = False
    """Also evaluate the model before the first step, and add the metrics to the record."""


def run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Return the folder of a run.

    Raises:
        InputError: if the seed is not a number from 0 to 2^32 - 1, or if a name is missing or cannot be a folder name.
    """
    if not (experiment.table and experiment.row):
        raise InputError(
            "experiment.table and experiment.row are empty: give a row's file, --config configs/table1/c_fpn.yaml"
        )
    if seed is None or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(
            f"seed_everything is {seed}: give a number from 0 to 2^32 - 1, which becomes a part of the folder's name."
        )
    for key in ("table", "row", "variant", "preset", "proposals_of", "weights_of"):
        name = getattr(experiment, key)
        if not is_folder_name(name) and (name or key in ("table", "row", "preset")):
            raise InputError(f"experiment.{key} {name!r} cannot be a folder name. Use letters, digits and _ - + . /")
    run = Experiment(table=experiment.table, row=run_row(experiment), preset=experiment.preset, seed=seed)
    return str(Path(experiment.root) / run.path)


def run_row(experiment: ExperimentOptions) -> str:
    """Return the name of the row in a run's record: ``c_fpn``, or ``c_fpn/lr0.002`` with a variant."""
    return f"{experiment.row}/{experiment.variant}" if experiment.variant else experiment.row


def linked_run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Return the folder of a run, or ``root`` if ``table`` or ``row`` is empty, as in the parser's defaults."""
    return run_directory(experiment, seed) if experiment.table and experiment.row else experiment.root


def last_checkpoint(run: str | Path) -> Path:
    """Return the path of a run's last checkpoint."""
    return Path(run, "checkpoints", "last.ckpt")


def best_checkpoint(run: str | Path) -> Path:
    """Return the path of a run's best checkpoint, which exists only if ``checkpoint.monitor`` is set."""
    return last_checkpoint(run).with_name("best.ckpt")


def linked_checkpoint_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Return the folder of a run's checkpoints; the parser computes ``checkpoint.dirpath`` with this function."""
    return str(last_checkpoint(linked_run_directory(experiment, seed)).parent)


def record_of(run: str | Path) -> Record | None:
    """Return the record of a run, or ``None`` if the file does not exist. A malformed file raises InputError."""
    path = Path(run, RECORD_NAME)
    return Record.load(path) if path.is_file() else None


def is_finished(run: str | Path) -> bool:
    """Return whether a folder contains a run that took all its steps and was evaluated on the whole split."""
    record = record_of(run)
    return record is not None and record.status == FINISHED


def moved_aside(run: Path) -> list[Path]:
    """Return the folders to which ``--experiment.overwrite true`` moved earlier runs, oldest first."""
    name = re.compile(rf"{re.escape(run.name)}\.replaced\d*")
    found = [path for path in run.parent.glob(f"{run.name}.replaced*") if name.fullmatch(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name))

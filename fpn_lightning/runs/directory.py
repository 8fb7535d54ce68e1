"""Names a run and gives its folder: ``runs/<preset>/<table>/<row>/seed<n>/``.

A variant of a row, for instance another learning rate, is below the row: ``.../<row>/<variant>/seed<n>/``.
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
    """Names the run and the runs that it needs first. The row's file sets everything except the preset."""

    table: str = ""
    """Table (or figure) of the paper that the run belongs to, ``table1``."""
    row: str = ""
    """Row of that table, ``c_fpn``."""
    variant: str = ""
    """Name of what the command line changes in the row, ``lr0.002``. The run gets a folder of its own, and a line of
    its own below the row in the table."""
    preset: str = "paper"
    """Scale of the run; ``paper`` without ``--preset``."""
    proposals_of: str = ""
    """Row, ``table1/c_fpn``, whose run makes the proposals, if ``data.proposals`` is null; same preset and seed."""
    weights_of: str = ""
    """Row, ``table2/c_fpn``, whose last checkpoint the run starts from, if ``model.init_from`` is null; same preset
    and seed."""
    root: str = "runs"
    """Folder of all runs."""
    output: str = ""
    """Folder that ``validate``, ``test`` and ``predict`` write to; by default ``<run>/<subcommand>``."""
    overwrite: bool = False
    """``fit`` replaces an earlier run of the same row, preset and seed, which is deleted when the new one has finished;
    ``predict`` replaces proposals that other weights made."""
    evaluate_untrained: bool = False
    """Also evaluate before the first step, and keep these metrics beside the final ones."""


def run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run.

    Raises:
        InputError: if the seed is not a number from 0 to 2^32 - 1, or a name is missing or cannot be a folder.
    """
    if not (experiment.table and experiment.row):
        raise InputError(
            "experiment.table and experiment.row are empty: give a row's file, --config configs/table1/c_fpn.yaml"
        )
    if seed is None or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(
            f"seed_everything is {seed}: give a number from 0 to 2^32 - 1; it is part of the run's folder."
        )
    for key in ("table", "row", "variant", "preset", "proposals_of", "weights_of"):
        name = getattr(experiment, key)
        if not is_folder_name(name) and (name or key in ("table", "row", "preset")):
            raise InputError(f"experiment.{key} {name!r} cannot be a folder name. Give letters, digits and _, -, +, /.")
    run = Experiment(table=experiment.table, row=run_row(experiment), preset=experiment.preset, seed=seed)
    return str(Path(experiment.root) / run.path)


def run_row(experiment: ExperimentOptions) -> str:
    """Row of a run in its record: ``c_fpn``, or ``c_fpn/lr0.002`` with a variant."""
    return f"{experiment.row}/{experiment.variant}" if experiment.variant else experiment.row


def linked_run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run; the root if the run has no name, because the parser also computes links on bare defaults."""
    return run_directory(experiment, seed) if experiment.table and experiment.row else experiment.root


def last_checkpoint(run: str | Path) -> Path:
    """The last checkpoint of the run in a folder."""
    return Path(run, "checkpoints", "last.ckpt")


def best_checkpoint(run: str | Path) -> Path:
    """The best checkpoint of the run in a folder, which it has with ``checkpoint.monitor``."""
    return last_checkpoint(run).with_name("best.ckpt")


def linked_checkpoint_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run's checkpoints, for a link between arguments."""
    return str(last_checkpoint(linked_run_directory(experiment, seed)).parent)


def record_of(run: str | Path) -> Record | None:
    """The record of the run in a folder, if there is one; InputError if it is malformed."""
    path = Path(run, RECORD_NAME)
    return Record.load(path) if path.is_file() else None


def is_finished(run: str | Path) -> bool:
    """Whether a folder holds a run that took all its steps and was evaluated on the whole split."""
    record = record_of(run)
    return record is not None and record.status == FINISHED


def moved_aside(run: Path) -> list[Path]:
    """Folders of earlier runs that ``--experiment.overwrite true`` moved aside, oldest first."""
    name = re.compile(rf"{re.escape(run.name)}\.replaced\d*")
    found = [path for path in run.parent.glob(f"{run.name}.replaced*") if name.fullmatch(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name))

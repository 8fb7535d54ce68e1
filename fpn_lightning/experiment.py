"""Which run this is and where it lives: ``runs/<preset>/<table>/<row>/seed<n>/``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fpn_lightning.errors import InputError


@dataclass
class ExperimentOptions:
    """Names the run; the row file gives table and row, an overlay the preset."""

    table: str = ""
    """Table (or figure) of the paper the run belongs to, ``table1``."""
    row: str = ""
    """Its row, ``c_fpn``."""
    preset: str = "paper"
    """Scale of the run; ``paper`` where no overlay says otherwise."""
    root: str = "runs"
    """Folder of all runs."""
    overwrite: bool = False
    """Delete what an earlier run of the same name, seed and preset has left."""
    evaluate_untrained: bool = False
    """Also evaluate before the first step, and keep the numbers beside the final ones."""


def run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run, linked into the trainer when arguments are parsed.

    Raises:
        InputError: if the seed is not a number (runs are told apart by it) or the run has no name.
    """
    if not (experiment.table and experiment.row):
        raise InputError(
            "experiment.table and experiment.row are empty: give a row's file, --config configs/table1/c_fpn.yaml"
        )
    if seed is None or isinstance(seed, bool):
        raise InputError(f"seed_everything is {seed}: give a number, runs are told apart by it.")
    return str(Path(experiment.root) / experiment.preset / experiment.table / experiment.row / f"seed{seed}")


def claim_run_directory(directory: Path, overwrite: bool, resume: bool) -> None:
    """Make sure that ``fit`` may write into a run directory; nothing computed earlier is lost by accident.

    Args:
        directory: of the run.
        overwrite: delete what is there.
        resume: the run continues from its last checkpoint.

    Raises:
        InputError: if the run is finished, or unfinished and neither continued nor overwritten, or if there is
            nothing to continue.
    """
    if overwrite:
        if resume:
            raise InputError(
                "--experiment.overwrite true would delete the checkpoint that --ckpt_path names; drop one."
            )
        shutil.rmtree(directory, ignore_errors=True)
    elif (directory / "metrics.json").exists():
        raise InputError(f"{directory} holds a finished run. To run it again: --experiment.overwrite true")
    elif resume:
        if not (directory / "checkpoints" / "last.ckpt").exists():
            raise InputError(f"--ckpt_path last: {directory / 'checkpoints' / 'last.ckpt'} does not exist.")
    elif (directory / "config.yaml").exists():
        raise InputError(
            f"{directory} holds an unfinished run. To continue it: --ckpt_path last; "
            "to start over: --experiment.overwrite true"
        )
    directory.mkdir(parents=True, exist_ok=True)

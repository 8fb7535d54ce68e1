"""Names a run and gives its folder: ``runs/<preset>/<table>/<row>/seed<n>/``."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fpn_lightning.errors import InputError
from fpn_lightning.files import writing
from fpn_lightning.runs.record import Experiment


@dataclass
class ExperimentOptions:
    """Names the run and the runs that it needs first. The row's file sets everything except the preset."""

    table: str = ""
    """Table (or figure) of the paper that the run belongs to, ``table1``."""
    row: str = ""
    """Row of that table, ``c_fpn``."""
    preset: str = "paper"
    """Scale of the run; ``paper`` without ``--preset``."""
    proposals_of: str = ""
    """Row, ``table1/c_fpn``, whose run makes the proposals, if ``data.proposals`` is null; same preset and seed."""
    weights_of: str = ""
    """Row, ``table2/c_fpn``, whose last checkpoint the run starts from, if ``model.init_from`` is null; same preset
    and seed."""
    root: str = "runs"
    """Folder of all runs."""
    overwrite: bool = False
    """Delete an earlier run of the same row, preset and seed first."""
    evaluate_untrained: bool = False
    """Also evaluate before the first step, and keep these metrics beside the final ones."""


def run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run.

    Raises:
        InputError: if the seed is not a number from 0 on, or a name is missing or cannot be a folder.
    """
    if not (experiment.table and experiment.row):
        raise InputError(
            "experiment.table and experiment.row are empty: give a row's file, --config configs/table1/c_fpn.yaml"
        )
    if seed is None or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed_everything is {seed}: give a number from 0 on; it is part of the run's folder.")
    for key in ("table", "row", "preset", "proposals_of", "weights_of"):
        name = getattr(experiment, key)
        if not re.fullmatch(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*", name) and (name or not key.endswith("_of")):
            raise InputError(f"experiment.{key} {name!r} cannot be a folder name.")
    run = Experiment(table=experiment.table, row=experiment.row, preset=experiment.preset, seed=seed)
    return str(Path(experiment.root) / run.path)


def linked_run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run; the root if the run has no name, because the parser also computes links on bare defaults."""
    return run_directory(experiment, seed) if experiment.table and experiment.row else experiment.root


def last_checkpoint(run: str | Path) -> Path:
    """The last checkpoint of the run in a folder."""
    return Path(run, "checkpoints", "last.ckpt")


def linked_checkpoint_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Folder of a run's checkpoints, for a link between arguments."""
    return str(last_checkpoint(linked_run_directory(experiment, seed)).parent)


def claim_run_directory(directory: Path, overwrite: bool, resume: bool) -> None:
    """Make the folder that ``fit`` writes to, unless it holds a run that the user may want to keep.

    Args:
        directory: the run's directory.
        overwrite: delete what is there.
        resume: the run continues from its last checkpoint.

    Raises:
        InputError: if the run is finished, if it is unfinished and neither resumed nor overwritten, or if there is no
            checkpoint to resume from.
    """
    last = last_checkpoint(directory)
    started = any(last.parent.glob("*.ckpt"))
    if overwrite:
        if resume:
            raise InputError(
                "--experiment.overwrite true would delete the checkpoint that --ckpt_path names; drop one."
            )
        shutil.rmtree(directory, ignore_errors=True)
    elif (directory / "metrics.json").exists():
        raise InputError(f"{directory} holds a finished run. To run it again: --experiment.overwrite true")
    elif resume:
        if not started:
            raise InputError(f"--ckpt_path last: {last} does not exist.")
    elif started:
        raise InputError(
            f"{directory} holds an unfinished run. To continue it: --ckpt_path last; "
            "to start over: --experiment.overwrite true"
        )
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    if not resume:
        _forget_attempt(directory)


def _forget_attempt(directory: Path) -> None:
    """Remove the log of a run that was killed before its first checkpoint; the next one may have other settings."""
    for name in ("metrics.csv", "untrained.yaml", "wandb_id"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "pictures", ignore_errors=True)


def check_same_config(path: Path, resolved: dict[str, Any]) -> None:
    """Reject a resumed run whose model or data differ from those that it was started with.

    Args:
        path: ``config.yaml`` of the run; nothing is checked if there is none.
        resolved: the configuration to resume with.

    Raises:
        InputError: naming the keys that differ.
    """
    if not path.exists():
        return
    started = yaml.safe_load(path.read_text(encoding="utf-8"))
    differing = [key for group in ("model", "data") for key in _differences(started[group], resolved[group], group)]
    movable = ("data.root", "data.num_workers", "data.batch_size_per_device")
    if wrong := [key for key in differing if key not in movable]:
        raise InputError(
            f"{path.parent} was started with other values of {', '.join(wrong)}. Continue it with its own config.yaml, "
            "or start over with --experiment.overwrite true"
        )


def _differences(left: Any, right: Any, key: str) -> list[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted(left.keys() | right.keys())
        return [name for k in keys for name in _differences(left.get(k), right.get(k), f"{key}.{k}")]
    return [] if left == right else [key]

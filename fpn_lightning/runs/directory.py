"""Which run this is and where it lives: ``runs/<preset>/<table>/<row>/seed<n>/``."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from fpn_lightning.errors import InputError


@dataclass
class ExperimentOptions:
    """Names the run, and the runs it needs first; the row file gives all but the preset."""

    table: str = ""
    """Table (or figure) of the paper the run belongs to, ``table1``."""
    row: str = ""
    """Its row, ``c_fpn``."""
    preset: str = "paper"
    """Scale of the run; ``paper`` where no ``--preset`` says otherwise."""
    proposals_of: str = ""
    """Row, ``table1/c_fpn``, whose proposals ``data.proposals`` are where that is null; same preset and seed."""
    weights_of: str = ""
    """Row, ``table2/c_fpn``, whose last weights ``model.init_from`` are where that is null; same preset and seed."""
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
    if seed is None or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed_everything is {seed}: give a number from 0 on; runs are told apart by it.")
    for key in ("table", "row", "preset", "proposals_of", "weights_of"):
        name = getattr(experiment, key)
        if not re.fullmatch(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*", name) and (name or not key.endswith("_of")):
            raise InputError(f"experiment.{key} {name!r} cannot be a folder name.")
    return str(Path(experiment.root) / experiment.preset / experiment.table / experiment.row / f"seed{seed}")


def linked_run_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """As :func:`run_directory`, for links between arguments, which are also computed on the bare defaults."""
    return run_directory(experiment, seed) if experiment.table and experiment.row else experiment.root


def linked_checkpoint_directory(experiment: ExperimentOptions, seed: int | bool | None) -> str:
    """Where the checkpoints of a run lie, for links between arguments."""
    return str(Path(linked_run_directory(experiment, seed)) / "checkpoints")


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
    elif (directory / "checkpoints" / "last.ckpt").exists():
        raise InputError(
            f"{directory} holds an unfinished run. To continue it: --ckpt_path last; "
            "to start over: --experiment.overwrite true"
        )
    directory.mkdir(parents=True, exist_ok=True)


def checkpoint_step(path: Path) -> int:
    """Number of optimiser steps a checkpoint was written after.

    Raises:
        InputError: if the file is missing or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"--ckpt_path: {path} does not exist. `last` is the run's own last checkpoint.")
    try:
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        raise InputError(f"--ckpt_path: {path} is not a whole checkpoint ({error})") from error


def refuse_other_config(path: Path, resolved: dict[str, Any]) -> None:
    """Refuse to continue a run with another model or other data than it was started with.

    Args:
        path: ``config.yaml`` of the run.
        resolved: the configuration it is to be continued with.

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
        return [found for k in keys for found in _differences(left.get(k), right.get(k), f"{key}.{k}")]
    return [] if left == right else [key]

"""Checks and completes the options of a subcommand before the data and the model are built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import _get_rank

from fpn_lightning.errors import InputError
from fpn_lightning.predictions.detections import check_source
from fpn_lightning.runs.checkpoints import newest_checkpoint, steps_taken
from fpn_lightning.runs.claim import check_output, check_sources, check_start
from fpn_lightning.runs.directory import best_checkpoint, last_checkpoint, run_directory
from fpn_lightning.runs.needs import fill_in_needs
from fpn_lightning.runs.resume import check_same_config
from fpn_lightning.weights.init_from import split_source


def complete_options(subcommand: str, options: Any, run: Path, output: Path) -> None:
    """Check the options. Set the paths of proposals and weights if ``experiment`` names the rows that provide them.

    Args:
        subcommand: name of the subcommand.
        options: parsed configuration of the subcommand; changed in place.
        run: directory of the run.
        output: folder that the subcommand writes to.

    Raises:
        InputError: if an option is wrong; the message names the option.
    """
    run_directory(options.experiment, options.seed_everything)
    if subcommand != "fit":
        check_output(output, subcommand)
    check_source(subcommand, options.data.predict_split, options.data.predict_path)
    if subcommand == "predict":
        options.return_predictions = False  # callbacks write predictions to files
    options.weights_only = True  # load checkpoints without running code from them
    if subcommand == "fit" and options.ckpt_path not in (None, "last", str(last_checkpoint(run))):
        raise InputError(
            "fit only resumes its own run: --ckpt_path last. For the weights of another run: --model.init_from PATH"
        )
    if options.ckpt_path is None and subcommand != "fit" and not options.model.init_args.init_from:
        raise InputError(f"{subcommand} needs weights: --ckpt_path last, --ckpt_path PATH or --model.init_from PATH")
    fill_in_needs(subcommand, options)


def check_run_directory(options: Any, run: Path, resolved: Callable[[], dict[str, Any]]) -> None:
    """Check that ``fit`` may start in the directory of its run.

    Args:
        options: the configuration after :func:`complete_options`.
        run: directory of the run.
        resolved: returns the whole configuration, as :meth:`fpn_lightning.cli.CLI.resolved_config` does.

    Raises:
        InputError: if the directory contains another run, if the new run reads from the run that it overwrites, or if
            the run to continue was started with another configuration.
    """
    overwrite, resumes = options.experiment.overwrite, options.ckpt_path is not None
    check_start(run, overwrite, resumes)
    if overwrite:
        init_from = options.model.init_args.init_from
        read = {"model.init_from": init_from and split_source(init_from)[1], "data.proposals": options.data.proposals}
        check_sources(run, {**read, "data.root": options.data.root})
    if resumes:
        check_same_config(run / "config.yaml", resolved())


def find_checkpoint(subcommand: str, options: Any, run: Path) -> int | None:
    """Replace ``last`` and ``best`` in ``ckpt_path`` by the path of the file.

    Args:
        subcommand: name of the subcommand; ``fit`` also needs the state of the optimiser.
        options: parsed configuration of the subcommand; changed in place.
        run: directory of the run.

    Returns:
        Number of optimiser steps taken before the checkpoint was written; ``None`` if ``ckpt_path`` is not given.

    Raises:
        InputError: if the checkpoint does not exist or cannot be used.
    """
    if options.ckpt_path == "best":
        options.ckpt_path = str(best_checkpoint(run))
        if not Path(options.ckpt_path).is_file():
            raise InputError(
                f"{options.ckpt_path} does not exist. fit writes this file only if a metric is given, for example "
                "--checkpoint.monitor val/AP"
            )
    if options.ckpt_path in ("last", str(last_checkpoint(run))):
        options.ckpt_path = str(newest_checkpoint(run))
    return None if options.ckpt_path is None else steps_taken(options.ckpt_path, resumes=subcommand == "fit")


def is_first_process() -> bool:
    """Return whether this is the first process, which writes files. Works also before other processes are started."""
    return _get_rank() in (None, 0)

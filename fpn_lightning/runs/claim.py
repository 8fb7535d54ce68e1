"""Prepares the folder of a run for ``fit``. Checks precede changes, and a failure never loses an earlier run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from fpn_lightning.data.proposals.header import HEADER
from fpn_lightning.errors import InputError
from fpn_lightning.files import lock, write_whole, writing
from fpn_lightning.runs.directory import RECORD_NAME, is_finished, last_checkpoint, moved_aside, record_of

OVERWRITE = "--experiment.overwrite true"
RESUME = "--ckpt_path last"
EARLIER_RECORD = "metrics.earlier.json"
"""File with the record of a finished run while the run is trained longer."""


def check_start(directory: Path, overwrite: bool, resume: bool) -> None:
    """Check that ``fit`` may start in a folder; change nothing.

    Args:
        directory: the run's directory.
        overwrite: whether an earlier run in the folder is replaced.
        resume: whether the run continues from its last checkpoint.

    Raises:
        InputError: if another process trains in the folder, if the folder holds a run that is neither resumed nor
            overwritten, or if there is no checkpoint to resume from.
    """
    if directory.is_dir():
        with _alone(directory):
            pass
    _check_free(directory, overwrite, resume)


def _check_free(directory: Path, overwrite: bool, resume: bool) -> None:
    started = _has_checkpoint(directory)
    if overwrite and resume:
        raise InputError(f"{OVERWRITE} would replace the run that {RESUME} continues; use only one of the two.")
    if overwrite:
        return
    aside = "".join(f" The run that was overwritten is in {folder}." for folder in moved_aside(directory)[:1])
    if resume:
        if not started:
            raise InputError(f"{RESUME}: {last_checkpoint(directory)} does not exist.{aside}")
        return
    record = record_of(directory)
    if record is not None and is_finished(directory):
        raise InputError(
            f"{directory} holds a finished run. To run it again: {OVERWRITE}; to train it longer: {RESUME} with "
            f"--trainer.max_steps larger than {record.train.steps}"
        )
    if record is not None or started:
        held = "an unfinished run" if record is None else f"a run that is not finished ({record.outcome})"
        raise InputError(f"{directory} holds {held}. To continue it: {RESUME}; to start over: {OVERWRITE}{aside}")


def check_steps(directory: Path, taken: int, asked: int) -> None:
    """Check that a resumed run has something left to do: optimiser steps or the final evaluation.

    Args:
        directory: the run's directory.
        taken: optimiser steps of its last checkpoint.
        asked: ``trainer.max_steps``, rescaled; not positive if there is no limit.

    Raises:
        InputError: if the run has taken more steps than ``asked``, or has taken all of them and is finished.
    """
    if 0 < asked < taken:
        raise InputError(
            f"{directory} has taken {taken} steps, more than trainer.max_steps {asked}. To train it longer: "
            f"--trainer.max_steps larger than {taken}; to run it again: {OVERWRITE} without --ckpt_path"
        )
    if asked == taken and is_finished(directory):
        raise InputError(
            f"{directory} holds a finished run: it has taken all {taken} steps of trainer.max_steps, so {RESUME} has "
            f"nothing to continue. To train it longer: --trainer.max_steps larger than {taken}; to run it again: "
            f"{OVERWRITE} without --ckpt_path"
        )


def check_output(directory: Path, subcommand: str) -> None:
    """Check that a subcommand does not write over the record and the log of a run.

    Args:
        directory: the folder that the subcommand writes to.
        subcommand: name of the subcommand.

    Raises:
        InputError: if ``directory`` is the folder of a run.
    """
    if (directory / "config.yaml").exists() and any(
        (directory / name).exists() for name in ("checkpoints", RECORD_NAME)
    ):
        raise InputError(
            f"experiment.output: {directory} is the folder of a run. {subcommand} would change its record and log; "
            "give another folder."
        )


def check_sources(directory: Path, sources: Mapping[str, str | None]) -> None:
    """Check that the new run reads nothing from the run that it overwrites.

    Args:
        directory: the run's directory.
        sources: paths that the new run reads, by configuration key.

    Raises:
        InputError: if a path is inside the run's directory; the message names the key.
    """
    for key, path in sources.items():
        if path is not None and Path(path).resolve().is_relative_to(directory.resolve()):
            raise InputError(
                f"{key} is {path}, a part of the run that {OVERWRITE} replaces. Copy it to another folder and name the "
                "copy, or write the new run elsewhere with --experiment.root"
            )


@contextmanager
def claimed(
    directory: Path, overwrite: bool, resume: bool, trained: Callable[[], bool]
) -> Iterator[Callable[[], None]]:
    """Keep other processes out of a run's folder while the ``with`` block trains in it.

    An overwritten run is moved to ``seed<n>.replaced``, and deleted when the new run has finished. If the block fails
    before its first optimiser step, the files of the new run are removed and the earlier run is moved back.

    Args:
        directory: the run's directory.
        overwrite: whether an earlier run in the folder is replaced.
        resume: whether the run continues from its last checkpoint.
        trained: returns whether the block has taken an optimiser step.

    Yields:
        A function that does the same as a failure of the block. A process calls it to end without leaving the block.

    Raises:
        InputError: if another process has begun or finished a run in the folder since :func:`check_start`.
    """
    if directory.is_symlink():
        directory = directory.resolve()  # the link, for instance to a larger disk, must not be replaced by a folder
    with ExitStack() as locks:
        new = not directory.exists()
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        locks.enter_context(_alone(directory))  # before anything in the folder is changed
        _check_free(directory, overwrite, resume)
        undo = [_prepare(directory, overwrite, new)]
        if overwrite and not new:  # the folder was replaced by an empty one, which has no lock yet
            locks.enter_context(_alone(directory))
        if not overwrite:
            _tell(directory)
        yield from _training(directory, trained, undo)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder. The lock moves with the folder and ends with this process."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        trains = f"another process trains in {directory}"
        lock(handle, trains)
        if not (directory.is_dir() and os.path.samestat(os.fstat(handle), directory.stat())):
            raise InputError(f"{trains}: wait for it, or stop it first")  # the folder was just replaced
        yield
    finally:
        os.close(handle)


def _training(
    directory: Path, trained: Callable[[], bool], undo: list[Callable[[], None]]
) -> Iterator[Callable[[], None]]:
    """Restore the earlier state if the block fails before its first step; delete the earlier run on success."""

    def failed() -> None:
        if undo and not trained():
            undo.pop()()
        _tell(directory)

    try:
        yield failed
    except BaseException:
        failed()
        raise
    if is_finished(directory):
        (directory / EARLIER_RECORD).unlink(missing_ok=True)
        for folder in moved_aside(directory):
            shutil.rmtree(folder)
    _tell(directory)


def _prepare(directory: Path, overwrite: bool, new: bool) -> Callable[[], None]:
    """Prepare the folder for a run; return a function that restores the earlier state."""
    aside = None
    with writing(directory):
        if overwrite and not new:
            aside, new = _set_aside(directory), True
    if not _has_checkpoint(directory):
        _forget_attempt(directory)
    record, earlier = directory / RECORD_NAME, directory / EARLIER_RECORD
    changed = [record, earlier, directory / "config.yaml", directory / "metrics.csv"]
    before = {path: path.read_bytes() if path.exists() else None for path in changed}
    if is_finished(directory):  # otherwise keep the earlier record that an unfinished continuation may have left
        record.replace(earlier)
    record.unlink(missing_ok=True)

    def undo() -> None:
        if new:
            shutil.rmtree(directory)
        else:
            for path, content in before.items():
                path.unlink(missing_ok=True) if content is None else write_whole(path, content)
        if aside is not None:
            aside.rename(directory)
        elif new:
            with suppress(OSError):  # remove parents, innermost first, up to the first that is not empty
                for folder in directory.parents:
                    folder.rmdir()

    return undo


def _set_aside(directory: Path) -> Path | None:
    """Empty a folder. If it contains results, move them to a new folder and return its path; delete anything else."""
    if not _holds_results(directory):
        shutil.rmtree(directory)
        directory.mkdir()
        return None
    aside = _free(directory)
    directory.rename(aside)
    try:
        directory.mkdir()
    except OSError:
        aside.rename(directory)
        raise
    rank_zero_info(f"The earlier run was moved to {aside}. It is deleted when the new run has finished.")
    return aside


def _has_checkpoint(directory: Path) -> bool:
    return any(last_checkpoint(directory).parent.glob("*.ckpt"))


def _forget_attempt(directory: Path) -> None:
    """Remove the logs of a run that ended before its first checkpoint; the next run may have other settings."""
    for name in ("metrics.csv", "untrained.yaml", "wandb_id"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "pictures", ignore_errors=True)


def _holds_results(directory: Path) -> bool:
    """Return whether a folder contains a checkpoint, a record or stored proposals."""
    return any(any(directory.rglob(pattern)) for pattern in ("*.ckpt", RECORD_NAME, EARLIER_RECORD, HEADER))


def _free(directory: Path) -> Path:
    names = [f"{directory.name}.replaced", *(f"{directory.name}.replaced{number}" for number in range(2, 1000))]
    return next(path for path in map(directory.with_name, names) if not path.exists())


def _tell(directory: Path) -> None:
    """Log where overwritten runs are that were not deleted, and how to restore them."""
    for folder in moved_aside(directory):
        rank_zero_info(
            f"The run that was overwritten is in {folder}. It is deleted when a run in {directory} has finished; to "
            f"get it back, delete {directory} and rename {folder.name} to {directory.name}."
        )

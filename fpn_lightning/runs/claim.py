"""Prepares the folder of a run for ``fit``. A failure never deletes an earlier run."""

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
"""File that keeps the record of a finished run while the run is trained for more steps."""


def check_start(directory: Path, overwrite: bool, resume: bool) -> None:
    """Check that ``fit`` may start in a folder. The folder is not changed.

    Args:
        directory: the run's directory.
        overwrite: whether an earlier run in the folder is replaced.
        resume: whether the run continues from its last checkpoint.

    Raises:
        InputError: if another process trains in the folder, if ``overwrite`` and ``resume`` are both true, if both are
            false and the folder contains a run, or if the checkpoint to resume from is missing.
    """
    if directory.is_dir():
        with _alone(directory):
            pass
    _check_free(directory, overwrite, resume)


def _check_free(directory: Path, overwrite: bool, resume: bool) -> None:
    started = _has_checkpoint(directory)
    if overwrite and resume:
        raise InputError(f"{OVERWRITE} would replace the run that {RESUME} continues. Give only one of these options.")
    if overwrite:
        return
    aside = "".join(f" The overwritten run is in {folder}." for folder in moved_aside(directory)[:1])
    if resume:
        if not started:
            raise InputError(f"{RESUME}: {last_checkpoint(directory)} does not exist.{aside}")
        return
    record = record_of(directory)
    if record is not None and is_finished(directory):
        raise InputError(
            f"{directory} holds a finished run. To repeat the run: {OVERWRITE}; to train it longer: {RESUME} with "
            f"--trainer.max_steps larger than {record.train.steps}"
        )
    if record is not None or started:
        held = "an unfinished run" if record is None else f"a run that is not finished ({record.outcome})"
        raise InputError(f"{directory} holds {held}. To continue the run: {RESUME}; to start over: {OVERWRITE}{aside}")


def check_steps(directory: Path, taken: int, asked: int) -> None:
    """Check that a resumed run has something left to do: optimiser steps or the final evaluation.

    Args:
        directory: the run's directory.
        taken: number of optimiser steps that the run had taken when it wrote its last checkpoint.
        asked: number of optimiser steps after which training ends, counted from the start of the run: for example
            ``trainer.max_steps``, rescaled for ``data.total_batch_size``. -1 means no limit.

    Raises:
        InputError: if the run has taken more steps than ``asked``, or if it has taken ``asked`` steps and is finished.
    """
    if 0 < asked < taken:
        raise InputError(
            f"{directory} has taken {taken} steps, more than trainer.max_steps {asked}. To train the run longer: "
            f"--trainer.max_steps larger than {taken}; to repeat the run: {OVERWRITE} without --ckpt_path"
        )
    if asked == taken and is_finished(directory):
        raise InputError(
            f"{directory} holds a finished run, which has taken all {taken} steps of trainer.max_steps. {RESUME} has "
            f"nothing to continue. To train the run longer: --trainer.max_steps larger than {taken}; to repeat the "
            f"run: {OVERWRITE} without --ckpt_path"
        )


def check_output(directory: Path, subcommand: str) -> None:
    """Check that a subcommand other than ``fit`` does not overwrite the record and the log of a run.

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
            f"experiment.output: {directory} is the folder of a run. {subcommand} would change the record and the log "
            "of this run. Give another folder."
        )


def check_sources(directory: Path, sources: Mapping[str, str | None]) -> None:
    """Check that the new run reads nothing from the run that it overwrites.

    Args:
        directory: the run's directory.
        sources: paths that the new run reads, by configuration key.

    Raises:
        InputError: if a configuration key gives a path inside ``directory``; the message names the key.
    """
    for key, path in sources.items():
        if path is not None and Path(path).resolve().is_relative_to(directory.resolve()):
            raise InputError(
                f"{key} is {path}, a part of the run that {OVERWRITE} replaces. Copy {path} to another folder and set "
                f"{key} to the copy, or write the new run to another folder with --experiment.root"
            )


@contextmanager
def claimed(
    directory: Path, overwrite: bool, resume: bool, trained: Callable[[], bool]
) -> Iterator[Callable[[], None]]:
    """Lock a run's folder against other processes while the ``with`` block trains in the folder.

    An overwritten run is moved to ``seed<n>.replaced``, and deleted when the new run has finished. If the block fails
    before its first optimiser step, the files of the new run are deleted and the overwritten run is moved back.

    Args:
        directory: the run's directory.
        overwrite: whether an earlier run in the folder is replaced.
        resume: whether the run continues from its last checkpoint.
        trained: function that returns whether the block has taken an optimiser step.

    Yields:
        A function that cleans up as if the ``with`` block had failed. A process that ends with ``os._exit()`` inside
        the block has to call this function first, because ``os._exit()`` raises no exception.

    Raises:
        InputError: if another process has begun or finished a run in the folder since :func:`check_start`.
    """
    if directory.is_symlink():
        # The link, for example to a folder on a larger disk, stays as it is. The folder that it points to is renamed.
        directory = directory.resolve()
    with ExitStack() as locks:
        new = not directory.exists()
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        locks.enter_context(_alone(directory))  # lock the folder before the first change
        _check_free(directory, overwrite, resume)
        undo = [_prepare(directory, overwrite, new)]
        if overwrite and not new:  # _prepare() has renamed the locked folder and made a new one: lock the new one
            locks.enter_context(_alone(directory))
        if not overwrite:
            _tell(directory)
        yield from _training(directory, trained, undo)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock a run's folder against other processes. A renamed folder keeps its lock. The lock ends with this process."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        trains = f"another process trains in {directory}"
        lock(handle, trains)
        if not (directory.is_dir() and os.path.samestat(os.fstat(handle), directory.stat())):
            # Another process has just replaced the folder.
            raise InputError(f"{trains}: wait for this process, or stop it first")
        yield
    finally:
        os.close(handle)


def _training(
    directory: Path, trained: Callable[[], bool], undo: list[Callable[[], None]]
) -> Iterator[Callable[[], None]]:
    """If the ``with`` block fails before its first step, restore the run's folder.

    If the run finishes, delete the overwritten run.
    """

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
    """Prepare the folder for a run. Return a function that undoes all changes of the folder."""
    aside = None
    with writing(directory):
        if overwrite and not new:
            aside, new = _set_aside(directory), True
    if not _has_checkpoint(directory):
        _forget_attempt(directory)
    record, earlier = directory / RECORD_NAME, directory / EARLIER_RECORD
    changed = [record, earlier, directory / "config.yaml", directory / "metrics.csv"]
    before = {path: path.read_bytes() if path.exists() else None for path in changed}
    # If a finished run is trained longer, its record stays in ``earlier``, even if the longer training is interrupted.
    if is_finished(directory):
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
            with suppress(OSError):  # remove parent folders, innermost first; rmdir() fails if one has content
                for folder in directory.parents:
                    folder.rmdir()

    return undo


def _set_aside(directory: Path) -> Path | None:
    """Replace a run's folder by an empty folder.

    Returns:
        The new path of the old folder. An old folder without results is deleted; then ``None`` is returned.
    """
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
    rank_zero_info(f"The earlier run was moved to {aside}, and is deleted when the new run has finished.")
    return aside


def _has_checkpoint(directory: Path) -> bool:
    return any(last_checkpoint(directory).parent.glob("*.ckpt"))


def _forget_attempt(directory: Path) -> None:
    """Delete the logs of a run that ended before its first checkpoint, because the new run may have other settings."""
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
    """Log the folder of each overwritten run that still exists, and how to restore the run."""
    for folder in moved_aside(directory):
        rank_zero_info(
            f"The overwritten run is in {folder}. This folder is deleted when a run in {directory} has finished. To "
            f"restore the overwritten run, delete {directory} and rename {folder.name} to {directory.name}."
        )

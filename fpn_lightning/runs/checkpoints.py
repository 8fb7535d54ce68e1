"""Writes the checkpoints of a run, so that the run can continue after any interruption, and finds the last checkpoint.

After N optimiser steps, a run first logs these steps, then writes the checkpoint, and then validates if a validation is
due. A run that resumes from this checkpoint therefore starts with the validation.
"""

from __future__ import annotations

import os
import shlex
import signal
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from fpn_lightning.errors import InputError
from fpn_lightning.runs.directory import best_checkpoint, last_checkpoint
from fpn_lightning.runs.signals import Stopped, handled_by
from fpn_lightning.stages.evaluated import EvaluatedStage
from fpn_lightning.state_dicts import read_file
from fpn_lightning.weights.checkpoint import read_checkpoint, write_checkpoint

_ALWAYS = ("global_step", "pytorch-lightning_version")
_TO_RESUME = ("loops", "optimizer_states", "lr_schedulers")


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint completely or not at all.

    Lightning's own class may write a checkpoint to a temporary folder and then copy it. If the copying is interrupted,
    an incomplete file remains.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. ``storage_options`` has no effect."""
        write_checkpoint(checkpoint, Path(path))


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for runs that may be stopped at any moment.

    The arguments of ModelCheckpoint determine when regular checkpoints are written. In addition, ``last.ckpt`` is
    written before every validation. After Ctrl-C, SIGTERM or SIGHUP, the run finishes the current step, writes
    ``last.ckpt`` and ends. A second signal ends the run at once.

    ``monitor`` names a metric, such as ``val/AP``. The weights with the highest value of this metric are saved in
    ``best.ckpt`` after the validation that measured the value. Lightning's ModelCheckpoint would save the weights
    before the validation. ``mode`` is ignored, because a higher value is better for every metric.
    """

    _received: int | None = None
    _monitored: str | None = None
    _best: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move ``monitor`` to a private attribute, so that Lightning's class does not save before the validation."""
        super().setup(trainer, pl_module, stage)
        if self.monitor is not None:
            self._monitored, self.monitor = self.monitor, None

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state and the best value of the monitored metric so far."""
        return super().state_dict() | ({} if self._best is None else {"best": self._best})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore Lightning's state and the best value of the monitored metric so far."""
        super().load_state_dict(state_dict)
        self._best = state_dict.get("best")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``best.ckpt`` if this validation measured the highest value of the monitored metric so far."""
        super().on_validation_end(trainer, pl_module)
        if self._monitored is None or trainer.global_step == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        value = cast(EvaluatedStage, pl_module).evaluation[self._monitored.removeprefix("val/")]
        if value is not None and (self._best is None or value > self._best):
            self._best = value
            trainer.save_checkpoint(best_checkpoint(trainer.default_root_dir), weights_only=True)

    @cached_property
    def _handlers(self) -> ExitStack:
        return ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handler. If a run resumes at a step after which it has to validate, validate first."""
        super().on_train_start(trainer, pl_module)
        self._received = None
        self._handlers.enter_context(handled_by(self._receive))
        loop = trainer.fit_loop.epoch_loop
        if loop.restarted_on_train_batch_end and _validation_is_due(trainer):
            trainer.validating = True
            loop.val_loop.restarting = False  # start at the first image
            loop.val_loop.run()
            trainer.training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the regular checkpoint if it is due, and ``last.ckpt`` if the run is about to validate or stop."""
        if trainer.fit_loop._should_accumulate():
            return  # wait for the optimiser step: a checkpoint would not contain the accumulated gradients
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        stops = self._has_to_stop(trainer)
        if (stops or _validation_is_due(trainer)) and self._last_global_step_saved != trainer.global_step:
            self._write_last(trainer)
        if stops:
            raise self._stopped()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the validation if a signal has arrived. ``last.ckpt`` was written before the validation."""
        if self._received is not None:
            raise self._stopped()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """If a signal has arrived since the last step, write a checkpoint and stop."""
        super().on_train_end(trainer, pl_module)
        self._handlers.close()
        if self._has_to_stop(trainer):
            self._write_last(trainer)
            raise self._stopped()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """If a signal stopped the run, write the command to continue the run into ``exception.advice``."""
        super().on_exception(trainer, pl_module, exception)
        self._handlers.close()
        run = Path(trainer.default_root_dir)
        fits = last_checkpoint(run).parent.resolve() == Path(str(self.dirpath)).resolve()
        if isinstance(exception, Stopped) and fits:
            exception.advice = "The run has no checkpoint, because no step has finished. Start the run again."
            if any(last_checkpoint(run).parent.glob("*.ckpt")):
                config = shlex.quote(str(run / "config.yaml"))
                exception.advice = f"To continue the run: python train.py fit --config {config} --ckpt_path last"

    def _receive(self, number: int, frame: Any) -> None:
        if self._received is not None:
            raise self._stopped()
        self._received = number
        # A signal handler must not call print(): the signal may arrive during another print().
        with suppress(OSError):  # the terminal may be closed
            os.write(2, b"\nThe run writes a checkpoint after this step and stops. A second signal stops it at once.\n")

    def _has_to_stop(self, trainer: Trainer) -> bool:
        """Return whether any process has received a signal. All processes get the same value and stop together."""
        return trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)

    def _stopped(self) -> Stopped:
        return Stopped(self._received or signal.SIGTERM)

    def _write_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir), weights_only=False)


def _validation_is_due(trainer: Trainer) -> bool:
    """Return whether Lightning validates after the current batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def newest_checkpoint(run: Path) -> Path:
    """Return the path of ``last.ckpt``, or of the newest readable checkpoint if ``last.ckpt`` is missing or damaged.

    If no checkpoint can be read, the path of ``last.ckpt`` is returned, so that later errors name this file.
    """
    last = last_checkpoint(run)
    found = (path for path in last.parent.glob("*.ckpt") if path != best_checkpoint(run))
    others = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in (last, *(path for path in others if path != last)):
        try:
            read_file(str(path), "--ckpt_path")
        except InputError:
            continue
        if path != last:
            rank_zero_warn(f"--ckpt_path last: {last} is missing or damaged; {path} is used instead.")
        return path
    return last


def steps_taken(path: str, resumes: bool) -> int:
    """Return how many optimiser steps were taken before a checkpoint was written.

    Args:
        path: the checkpoint, given as ``--ckpt_path``.
        resumes: whether training continues from the checkpoint. If so, the checkpoint must also contain the state of
            the optimiser.

    Raises:
        InputError: if the file is not a checkpoint of this package, or a necessary entry is missing.
    """
    checkpoint = read_checkpoint(path, "--ckpt_path")
    for key in (*_ALWAYS, *(_TO_RESUME if resumes else ())):
        if key not in checkpoint:
            raise InputError(f"--ckpt_path: {path} has no {key}. To use only the weights: --model.init_from {path}")
    return int(checkpoint["global_step"])

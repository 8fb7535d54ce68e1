"""Checkpoints of a run: when they are written, so that a run can go on after any interruption, and which is the last.

A checkpoint of step N is written after everything that the steps before N log. A validation that is due at step N comes
after the checkpoint. A resumed run therefore makes it first.
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
    """Writes checkpoints whole or not at all. Lightning's own class copies them from the folder for temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; storage options are not supported."""
        write_checkpoint(checkpoint, Path(path))


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for runs that may be stopped at any moment.

    In addition to the checkpoints that its arguments ask for, it writes ``last.ckpt`` before every validation, and
    after the step in which Ctrl-C or SIGTERM arrives. It then ends the run. A second signal ends it at once.

    With ``monitor``, the weights with the best value of that metric (``val/AP``) are in ``best.ckpt``, written right
    after the validation that gave the value. Lightning's own monitoring would save them before it. All metrics are
    better if they are higher, so ``mode`` is not used.
    """

    _received: int | None = None
    _monitored: str | None = None
    _best: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store ``monitor`` here and not in Lightning's class, which would save before the validation."""
        super().setup(trainer, pl_module, stage)
        if self.monitor is not None:
            self._monitored, self.monitor = self.monitor, None

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the best value so far if a metric is monitored."""
        return super().state_dict() | ({} if self._best is None else {"best": self._best})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far."""
        super().load_state_dict(state_dict)
        self._best = state_dict.get("best")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``best.ckpt`` if this validation of ``fit`` is the best so far."""
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
        """Delay signals to the end of a step from now on; do the validation that a killed run did not finish."""
        super().on_train_start(trainer, pl_module)
        self._received = None
        self._handlers.enter_context(handled_by(self._receive))
        loop = trainer.fit_loop.epoch_loop
        if loop.restarted_on_train_batch_end and _validation_is_due(trainer):
            trainer.validating = True
            loop.val_loop.restarting = False  # from the first image on
            loop.val_loop.run()
            trainer.training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if one is due, and before a validation or a stop."""
        if trainer.fit_loop._should_accumulate():
            return  # a checkpoint does not contain accumulated gradients
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
        """Stop within a validation of ``fit``; the checkpoint was written before it."""
        if self._received is not None:
            raise self._stopped()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle a signal that came after the last step."""
        super().on_train_end(trainer, pl_module)
        self._handlers.close()
        if self._has_to_stop(trainer):
            self._write_last(trainer)
            raise self._stopped()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add the command that continues a stopped run to its exception."""
        super().on_exception(trainer, pl_module, exception)
        self._handlers.close()
        run = Path(trainer.default_root_dir)
        fits = last_checkpoint(run).parent.resolve() == Path(str(self.dirpath)).resolve()
        if isinstance(exception, Stopped) and fits:
            exception.advice = "Before the first step has finished there is nothing to continue; start the run again."
            if any(last_checkpoint(run).parent.glob("*.ckpt")):
                config = shlex.quote(str(run / "config.yaml"))
                exception.advice = f"To continue the run: python train.py fit --config {config} --ckpt_path last"

    def _receive(self, number: int, frame: Any) -> None:
        if self._received is not None:
            raise self._stopped()
        self._received = number
        # A signal handler must not call print(): the signal may arrive during another print().
        with suppress(OSError):  # the terminal may have gone
            os.write(2, b"\nStopping after this step, with a checkpoint. A second signal stops at once.\n")

    def _has_to_stop(self, trainer: Trainer) -> bool:
        """Return whether any process has received a signal, so that all processes stop together."""
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
    """Path of ``last.ckpt``, or of the newest other checkpoint of the run if that one is missing or damaged.

    If no checkpoint can be read, the path is that of ``last.ckpt``, so that the message of its reader names it.
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
    """Return the number of optimiser steps before a checkpoint was written.

    Args:
        path: the checkpoint, given as ``--ckpt_path``.
        resumes: training continues from it, which needs more than its weights.

    Raises:
        InputError: if it is not a checkpoint of ours, or lacks what is needed.
    """
    checkpoint = read_checkpoint(path, "--ckpt_path")
    for key in (*_ALWAYS, *(_TO_RESUME if resumes else ())):
        if key not in checkpoint:
            raise InputError(f"--ckpt_path: {path} has no {key}; to use its weights only: --model.init_from {path}")
    return int(checkpoint["global_step"])

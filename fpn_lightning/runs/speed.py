"""Measures the speed and memory of a run, and shows its progress."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import TaskID


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory so far, MiB: allocated device memory on CUDA, otherwise the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class SpeedMonitor(Callback):
    """Logs ``train/seconds_per_step``, ``train/images_per_second`` and ``train/peak_memory_mib``.

    Attributes:
        step_seconds: wall time of each optimiser step of this process, s. Data loading is included, validation is not.
        eval_seconds: wall time of the last pass over an evaluation split, s.
    """

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self.eval_seconds = 0.0
        self._step_started: float | None = None
        self._last_step = 0
        self._eval_started = 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """Median time of this process's steps, s. The slow first step is left out, unless it is the only one."""
        steps = self.step_seconds[1:] or self.step_seconds
        return statistics.median(steps) if steps else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last_step = trainer.global_step
        self._step_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the time of an optimiser step, which may span several accumulated batches."""
        if trainer.global_step == self._last_step or self._step_started is None:
            return
        now = time.perf_counter()
        self.step_seconds.append(now - self._step_started)
        self._step_started = now
        self._last_step = trainer.global_step
        every = getattr(trainer, "log_every_n_steps", 50)  # missing in Lightning's types
        if every and trainer.global_step % every == 0:
            recent = statistics.median(self.step_seconds[-every:])
            images = len(batch) * trainer.accumulate_grad_batches * trainer.world_size
            values = {
                "train/seconds_per_step": recent,
                "train/images_per_second": images / recent,
                "train/peak_memory_mib": peak_memory_mib(pl_module.device),
            }
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step - 1)  # count steps from 0, as Lightning does

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the evaluation clock."""
        self._eval_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the evaluation clock. The evaluation time is not included in the time of the next step."""
        now = time.perf_counter()
        self.eval_seconds = now - self._eval_started
        if self._step_started is not None:
            self._step_started += self.eval_seconds


def stop_bar(trainer: Trainer) -> None:
    """End the progress bar, so that later output starts on a new line."""
    if isinstance(trainer.progress_bar_callback, RichProgressBar):
        trainer.progress_bar_callback.teardown(trainer, trainer.lightning_module, "")


class StepProgressBar(RichProgressBar):
    """A progress bar over the optimiser steps of the run instead of the batches of an epoch."""

    @property
    def total_train_batches(self) -> int | float:
        """Optimiser steps until training ends."""
        trainer = self.trainer
        if trainer.max_steps > 0:
            return trainer.max_steps
        return super().total_train_batches / trainer.accumulate_grad_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def _update(self, progress_bar_id: TaskID | None, current: int, visible: bool = True, hard: bool = False) -> None:
        if progress_bar_id is not None and progress_bar_id == self.train_progress_bar_id:
            current = self.trainer.global_step
        super()._update(progress_bar_id, current, visible, hard)

    def _add_task(self, total_batches: int | float, description: str, visible: bool = True) -> TaskID:
        return super()._add_task(total_batches, description, visible=True)  # show the bar before the first batch

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the progress bar to its end. A batch in which no image can be read does not move the bar."""
        if self.predict_progress_bar_id is not None:  # the bar does not exist if no image could be read
            self._update(self.predict_progress_bar_id, int(self.total_predict_batches_current_dataloader))
        super().on_predict_end(trainer, pl_module)

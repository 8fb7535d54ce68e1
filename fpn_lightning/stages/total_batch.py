"""Every optimiser step uses ``data.total_batch_size`` images, on any number of devices."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.stages.optimization import Optimization


def accumulation(trainer: Trainer, data: COCODataModule) -> int:
    """Return the number of micro-batches in an optimiser step of a run.

    Raises:
        InputError: if the devices do not divide the total batch, or if ``trainer.accumulate_grad_batches`` has another
            value.
    """
    steps = data.accumulation_steps(trainer.world_size)
    if trainer.accumulate_grad_batches not in (1, steps):
        raise InputError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but data.total_batch_size and "
            f"data.batch_size_per_device need {steps}. Remove it from the configuration."
        )
    return steps


def scaled_steps(max_steps: int, data: COCODataModule, optimization: Optimization) -> int:
    """Return ``trainer.max_steps`` for the total batch of a run; -1 (no limit) stays."""
    if max_steps <= 0 or not _is_scaled(data, optimization):
        return max_steps
    images = max_steps * optimization.schedule_factor * optimization.reference_batch_size
    return max(1, round(images / data.total_batch_size))


def keep_total_batch(trainer: Trainer, data: COCODataModule, optimization: Optimization) -> Optimization:
    """Set the trainer's accumulation so that devices × per-device × accumulation equals the total batch.

    If the total batch is not ``reference_batch_size``, or ``schedule_factor`` is not 1, learning rate, warm-up,
    milestones and the trainer's steps are rescaled together and printed.

    Args:
        trainer: the run's trainer; its accumulation, validation interval and number of steps are set.
        data: the data module, which knows the total batch.
        optimization: the configured schedule.

    Returns:
        The schedule of this run.

    Raises:
        InputError: see :func:`accumulation`.
    """
    trainer.accumulate_grad_batches = accumulation(trainer, data)
    interval = trainer.val_check_interval
    if isinstance(interval, int):  # configured in optimiser steps; Lightning counts batches
        trainer.val_check_interval = interval * trainer.accumulate_grad_batches
    if not _is_scaled(data, optimization):
        return optimization
    rescaled = optimization.rescaled(data.total_batch_size)
    max_steps = scaled_steps(trainer.max_steps, data, optimization)
    trainer.fit_loop.epoch_loop.max_steps = max_steps
    rank_zero_info(
        f"total batch {data.total_batch_size} instead of {optimization.reference_batch_size}, "
        f"schedule x {optimization.schedule_factor:g}: "
        f"lr {rescaled.lr:g}, warm-up {rescaled.warmup_steps}, milestones {list(rescaled.milestones)}, "
        f"max_steps {max_steps}"
    )
    return rescaled


def _is_scaled(data: COCODataModule, optimization: Optimization) -> bool:
    return data.total_batch_size != optimization.reference_batch_size or optimization.schedule_factor != 1

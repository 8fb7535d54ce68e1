"""Every optimiser step uses ``data.total_batch_size`` images, on any number of devices."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.stages.optimization import Optimization


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
        InputError: if ``trainer.accumulate_grad_batches`` has another value.
    """
    accumulation = data.accumulation_steps(trainer.world_size)
    if trainer.accumulate_grad_batches not in (1, accumulation):
        raise InputError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but data.total_batch_size and "
            f"data.batch_size_per_device need {accumulation}. Remove it from the configuration."
        )
    trainer.accumulate_grad_batches = accumulation
    interval = trainer.val_check_interval
    if isinstance(interval, int):  # configured in optimiser steps; Lightning counts batches
        trainer.val_check_interval = interval * accumulation
    reference, factor = optimization.reference_batch_size, optimization.schedule_factor
    if data.total_batch_size == reference and factor == 1:
        return optimization
    rescaled = optimization.rescaled(data.total_batch_size)
    max_steps = trainer.max_steps
    if max_steps > 0:
        max_steps = max(1, round(max_steps * factor * reference / data.total_batch_size))
        trainer.fit_loop.epoch_loop.max_steps = max_steps
    rank_zero_info(
        f"total batch {data.total_batch_size} instead of {reference}, schedule x {factor:g}: "
        f"lr {rescaled.lr:g}, warm-up {rescaled.warmup_steps}, milestones {list(rescaled.milestones)}, "
        f"max_steps {max_steps}"
    )
    return rescaled

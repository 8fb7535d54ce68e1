"""The images of an optimiser step are a contract: whatever the devices, they make ``data.total_batch_size``."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.stages.optimization import Optimization


def keep_total_batch(trainer: Trainer, data: COCODataModule, optimization: Optimization) -> Optimization:
    """Set the trainer's accumulation so that devices × per-device × accumulation make the total batch.

    Where the total is not the one that the schedule was given for, or the schedule is to be longer, learning rate,
    warm-up, milestones and the trainer's steps are rescaled together and printed.

    Args:
        trainer: of the run; its accumulation, validation interval and number of steps are set.
        data: says how many images make a step.
        optimization: the schedule as it was configured.

    Returns:
        The schedule as it is run.

    Raises:
        InputError: the trainer was told to accumulate otherwise.
    """
    accumulation = data.accumulation_steps(trainer.world_size)
    if trainer.accumulate_grad_batches not in (1, accumulation):
        raise InputError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but data.total_batch_size and "
            f"batch_size_per_device make it {accumulation}. Leave it out."
        )
    trainer.accumulate_grad_batches = accumulation
    interval = trainer.val_check_interval
    if isinstance(interval, int):  # given in optimiser steps, as everything else; Lightning counts batches
        trainer.val_check_interval = interval * accumulation
    reference, longer = optimization.reference_batch_size, optimization.schedule_factor
    if data.total_batch_size == reference and longer == 1:
        return optimization
    rescaled = optimization.rescaled(data.total_batch_size)
    max_steps = trainer.max_steps
    if max_steps > 0:
        max_steps = max(1, round(max_steps * longer * reference / data.total_batch_size))
        trainer.fit_loop.epoch_loop.max_steps = max_steps
    rank_zero_info(
        f"total batch {data.total_batch_size} instead of {reference}, schedule x {longer:g}: "
        f"lr {rescaled.lr:g}, warm-up {rescaled.warmup_steps}, milestones {list(rescaled.milestones)}, "
        f"max_steps {max_steps}"
    )
    return rescaled

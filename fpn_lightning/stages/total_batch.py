"""Keeps ``data.total_batch_size`` images in every optimiser step, on any number of devices."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.stages.optimization import Optimization


def accumulation(trainer: Trainer, data: COCODataModule) -> int:
    """Return the number of micro-batches per device in an optimiser step.

    Raises:
        InputError: if ``data.total_batch_size`` is not a multiple of ``data.batch_size_per_device`` × devices, or if
            ``trainer.accumulate_grad_batches`` is set and differs from the result.
    """
    steps = data.accumulation_steps(trainer.world_size)
    if trainer.accumulate_grad_batches not in (1, steps):
        raise InputError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but data.total_batch_size and "
            f"data.batch_size_per_device require {steps}. Remove accumulate_grad_batches from the configuration."
        )
    return steps


def planned_steps(trainer: Trainer, data: COCODataModule, optimization: Optimization) -> int:
    """Return the number of optimiser steps of a run; -1 if there is no limit.

    The run ends after ``trainer.max_steps`` (rescaled for ``data.total_batch_size``) or after ``trainer.max_epochs``,
    whichever comes first.
    """
    steps = trainer.max_steps
    if steps > 0 and _is_scaled(data, optimization):
        images = steps * optimization.schedule_factor * optimization.reference_batch_size
        steps = max(1, round(images / data.total_batch_size))
    passes = (trainer.max_epochs or -1) * data.steps_per_epoch
    return min((limit for limit in (steps, passes) if limit > 0), default=-1)


def keep_total_batch(trainer: Trainer, data: COCODataModule, optimization: Optimization) -> Optimization:
    """Set the trainer's gradient accumulation so that each optimiser step has ``data.total_batch_size`` images.

    Learning rate, warm-up, milestones and the trainer's ``max_steps`` are rescaled and printed if
    ``data.total_batch_size`` is not ``reference_batch_size`` or ``schedule_factor`` is not 1. Settings in epochs are
    converted to steps, because a resumed run may continue in the middle of an epoch.

    Args:
        trainer: the run's trainer. This function sets the trainer's gradient accumulation, validation interval and
            number of steps.
        data: the data module, with ``total_batch_size`` and ``batch_size_per_device``.
        optimization: the configured schedule.

    Returns:
        The schedule of this run.

    Raises:
        InputError: see :func:`accumulation`.
    """
    trainer.accumulate_grad_batches = accumulation(trainer, data)
    asked, max_steps = trainer.max_steps, planned_steps(trainer, data, optimization)
    interval = trainer.val_check_interval
    if isinstance(interval, float) and max_steps > 0:  # a float is a fraction of an epoch, so convert it to steps
        steps = round(interval * (trainer.check_val_every_n_epoch or 1) * data.steps_per_epoch)
        interval, trainer.check_val_every_n_epoch = min(max(steps, 1), max_steps), None
    if isinstance(interval, int):  # the config counts optimiser steps, Lightning counts batches
        trainer.val_check_interval = interval * trainer.accumulate_grad_batches
    # Limit only the number of steps: with a limit on epochs, Lightning would count a resumed epoch twice.
    epochs, trainer.fit_loop.max_epochs = trainer.max_epochs, -1
    trainer.fit_loop.epoch_loop.max_steps = max_steps
    if not _is_scaled(data, optimization):
        if max_steps != asked:
            rank_zero_info(f"{epochs} epochs of {data.steps_per_epoch} steps: the run ends after {max_steps} steps")
        return optimization
    rescaled = optimization.rescaled(data.total_batch_size)
    warmup = rescaled.warmup_steps if rescaled.warmup_steps >= 1 else round(rescaled.warmup_steps * max(max_steps, 0))
    rank_zero_info(
        f"Schedule rescaled from {optimization.reference_batch_size} to {data.total_batch_size} images per step, with "
        f"schedule_factor {optimization.schedule_factor:g}: "
        f"lr {rescaled.lr:g}, warmup_steps {warmup}, milestones {list(rescaled.milestones)}, "
        f"max_steps {max_steps}"
    )
    return rescaled


def _is_scaled(data: COCODataModule, optimization: Optimization) -> bool:
    return data.total_batch_size != optimization.reference_batch_size or optimization.schedule_factor != 1

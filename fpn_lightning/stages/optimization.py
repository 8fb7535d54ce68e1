"""Optimiser and learning-rate schedule (SGD and step schedule: FPN §5; linear warm-up: Detectron)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fpn_lightning.errors import InputError


@dataclass(frozen=True)
class Optimization:
    """Settings of the optimiser and its schedule; the defaults are those of the paper's RPN (FPN §5.1).

    ``lr``, ``warmup_steps``, ``milestones`` and the trainer's ``max_steps`` are meant for ``reference_batch_size``
    images per step. If ``data.total_batch_size`` is not ``reference_batch_size``, learning rate and numbers of steps
    are rescaled when training starts (linear scaling rule), and the new values are printed.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The paper uses ``sgd`` (with momentum); presets ``mini`` and ``small`` use ``adamw``."""
    lr: float = 0.02
    """Learning rate after warm-up."""
    momentum: float = 0.9
    """Momentum of SGD; AdamW ignores it."""
    weight_decay: float = 1e-4
    """Weight decay on every trained parameter."""
    schedule: Literal["multistep", "cosine"] = "multistep"
    """``multistep`` multiplies the learning rate by ``decay`` at each milestone. ``cosine`` decreases the learning rate
    to 0 at ``max_steps``."""
    milestones: Sequence[int] = (30_000,)
    """Optimiser steps at which ``multistep`` multiplies the learning rate by ``decay``."""
    decay: float = 0.1
    """Factor by which ``multistep`` multiplies the learning rate at each milestone."""
    warmup_steps: int | float = 500
    """Number of optimiser steps of linear warm-up; a value below 1 is a fraction of all steps."""
    warmup_factor: float = 1 / 3
    """Learning rate at step 0 as a fraction of ``lr``."""
    reference_batch_size: int = 16
    """Number of images per step that ``lr``, ``warmup_steps``, ``milestones`` and the trainer's ``max_steps`` assume.
    If ``data.total_batch_size`` differs, they are rescaled."""
    schedule_factor: float = 1
    """When training starts, ``milestones`` and the trainer's ``max_steps`` are multiplied by this factor. Rows with the
    paper's "2x" schedule set the factor to 2: with every preset, these rows train twice as long as other rows."""

    def __post_init__(self) -> None:
        for key in ("lr", "momentum", "weight_decay", "warmup_steps"):
            if (value := getattr(self, key)) < 0:
                raise InputError(f"model.optimization.{key} is {value}; it cannot be negative")

    def rescaled(self, total_batch_size: int) -> Optimization:
        """Return the settings for another number of images per step, with ``schedule_factor`` applied.

        If ``schedule_factor`` is 1, a run with the new settings trains on the same total number of images as before.
        """
        factor = total_batch_size / self.reference_batch_size
        return replace(
            self,
            lr=self.lr * factor,
            milestones=tuple(round(step * self.schedule_factor / factor) for step in self.milestones),
            warmup_steps=self.warmup_steps if self.warmup_steps < 1 else round(self.warmup_steps / factor),
            reference_batch_size=total_batch_size,
            schedule_factor=1,
        )

    def lr_factor(self, step: int, max_steps: int) -> float:
        """Return the learning rate at an optimiser step as a fraction of ``lr``."""
        if self.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * min(step / max_steps, 1.0)))
        else:
            factor = self.decay ** sum(step >= milestone for milestone in self.milestones)
        warmup_steps = self.warmup_steps if self.warmup_steps >= 1 else self.warmup_steps * max_steps
        if step < warmup_steps:
            progress = step / warmup_steps
            factor *= self.warmup_factor * (1 - progress) + progress
        return factor

    def build(self, parameters: Iterable[nn.Parameter], max_steps: int) -> tuple[Optimizer, LambdaLR]:
        """Build the optimiser, and a scheduler that is called once per optimiser step.

        Args:
            parameters: the parameters to train.
            max_steps: number of steps of the run; used by ``cosine`` and by ``warmup_steps`` below 1.

        Raises:
            InputError: if the schedule uses ``max_steps`` and ``max_steps`` is not positive.
        """
        if (self.schedule == "cosine" or 0 < self.warmup_steps < 1) and max_steps <= 0:
            raise InputError(
                "model.optimization needs the number of steps of the run, because schedule is cosine or warmup_steps "
                "is below 1 (a fraction of steps). Set trainer.max_steps or trainer.max_epochs to a positive number."
            )
        optimizer: Optimizer
        if self.optimizer == "sgd":
            optimizer = SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        else:
            optimizer = AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return optimizer, LambdaLR(optimizer, lambda step: self.lr_factor(step, max_steps))

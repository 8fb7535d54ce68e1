"""Converts errors about accelerator, devices, strategy and precision into messages that name these keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fpn_lightning.errors import InputError

KEYS = ("accelerator", "devices", "strategy", "precision")
# With another precision, Lightning would convert the whole batch, including the values from the annotation file.
PRECISIONS = (None, 32, "32", "32-true", 16, "16", "16-mixed", "bf16", "bf16-mixed", "bf16-true")


@contextmanager
def named_errors(trainer: Any) -> Iterator[None]:
    """Convert an error from building Lightning's trainer into an InputError that names the options.

    Args:
        trainer: the options of the trainer.

    Raises:
        InputError: if the precision is not supported, ``val_check_interval`` is 0, or this machine lacks what the
            options require.
    """
    if trainer.precision not in PRECISIONS:
        raise InputError(f"trainer.precision is {trainer.precision}. Use 32-true, 16-mixed, bf16-mixed or bf16-true.")
    if trainer.val_check_interval == 0:
        raise InputError("trainer.val_check_interval is 0. Set the steps between validations. Set 1000000 for none.")
    try:
        yield
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        asked = ", ".join(f"trainer.{key} {trainer[key]}" for key in KEYS if trainer[key] is not None)
        raise InputError(f"The trainer cannot be built with {asked}: {error}") from error

"""What a run asks of the machine: accelerator, devices, strategy and precision; errors name these keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fpn_lightning.errors import InputError

KEYS = ("accelerator", "devices", "strategy", "precision")
# Others convert the batch itself, which holds the numbers of the annotation file.
PRECISIONS = (None, 32, "32", "32-true", 16, "16", "16-mixed", "bf16", "bf16-mixed", "bf16-true")


@contextmanager
def named_errors(trainer: Any) -> Iterator[None]:
    """Turn an error of building Lightning's trainer into an InputError that names what was asked for.

    Args:
        trainer: the options of the trainer.

    Raises:
        InputError: if the precision is not supported, or if this machine does not have what the options ask for.
    """
    if trainer.precision not in PRECISIONS:
        raise InputError(f"trainer.precision is {trainer.precision}. Give 32-true, 16-mixed, bf16-mixed or bf16-true.")
    if trainer.val_check_interval == 0:
        raise InputError("trainer.val_check_interval is 0; give steps between validations, or 1000000 for none")
    try:
        yield
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        asked = ", ".join(f"trainer.{key} {trainer[key]}" for key in KEYS if trainer[key] is not None)
        raise InputError(f"The trainer cannot be built with {asked}: {error}") from error

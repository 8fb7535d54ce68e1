"""What the designs of Figure 1 cost on one machine, as ``benchmarks/figure1_cost.py`` measured it in one run."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from fpn_lightning.errors import InputError, first_error

FILE_NAME = "figure1_cost.json"
# As records are read: JSON's "3" is no number, and a misspelt key cannot pass for a missing one.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """One design.

    Attributes:
        seconds_per_image: at test time, one image after the other.
        network_seconds_per_image: the network's part of it; the rest is mostly non-maximum suppression.
        test_memory_mib: what proposing on one image adds to the memory held, at its peak, MiB.
        train_step_memory_mib: what the forward and backward pass of one training step add, MiB; for the image
            pyramid on all its scales, which no row is trained with.
        train_step_memory_note: how that was found, where it was not simply measured.
        parameters: of the model measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seconds_per_image: PositiveFloat
    network_seconds_per_image: PositiveFloat | None = None
    test_memory_mib: PositiveFloat
    train_step_memory_mib: PositiveFloat
    train_step_memory_note: str | None = None
    parameters: PositiveInt


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What was measured, on what.

    Attributes:
        hardware: in words.
        commit: of this repository.
        date: of the run.
        image_size: height and width, px.
        batch: images of one training step.
        rows: by row of Figure 1; those not measured are absent.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    schema: Literal[1]
    hardware: str
    commit: str
    date: datetime.date
    image_size: tuple[PositiveInt, PositiveInt]
    batch: PositiveInt
    rows: dict[str, RowCost]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            InputError: not readable, or a key is unknown, missing or out of range; names the file and the key.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        except ValidationError as error:
            raise InputError(
                f"{path}: {first_error(error)}; write the file anew with benchmarks/figure1_cost.py"
            ) from error

"""What the rows of a table cost on one machine, measured side by side in one run.

The speeds in run records were measured at different times, beside whatever else the machine did. A file
``records/<preset>/<table>_cost.json`` holds numbers that can be compared; ``benchmarks/figure1_cost.py`` writes one.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from fpn_lightning.errors import InputError, first_error
from fpn_lightning.reporting.grids import Grid, number
from fpn_lightning.reporting.summary import TableSummary

# As for records: the text "3" is not a number, and an unknown key is an error.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """One row.

    Attributes:
        seconds_per_image: at test time, one image after the other.
        network_seconds_per_image: the network's part of it; the rest is mostly non-maximum suppression.
        test_memory_mib: memory that one image adds at its peak, MiB.
        train_step_memory_mib: memory that the forward and backward pass of one training step add at their peak, MiB.
        train_step_memory_note: how that number was made, if it was not simply measured.
        parameters: number of parameters of the model.
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
    """The costs of a table's rows and how they were measured.

    Attributes:
        hardware: description of the machine.
        commit: commit of this repository.
        date: day of the measurement.
        image_size: height and width, px.
        batch: images of one training step.
        rows: by row id; a row that was not measured is absent.
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
            InputError: the file cannot be read, or a key is unknown, missing or out of range. Names file and key.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        except ValidationError as error:
            raise InputError(
                f"{path}: {first_error(error)}; write the file again with benchmarks/figure1_cost.py"
            ) from error


def costs_file(table: str, preset: str, records_root: Path) -> Path:
    """Where the costs of a table's rows are, if they were measured."""
    return records_root / preset / f"{table}_cost.json"


def costs_of(summary: TableSummary, records_root: Path) -> Costs | None:
    """The costs of a table's rows in ``records_root``; ``None`` if they were not measured.

    Raises:
        InputError: the file is malformed or names a row that the table does not have.
    """
    path = costs_file(summary.name, summary.preset, records_root)
    if not path.is_file():
        return None
    costs, known = Costs.load(path), [row.id for row in summary.rows]
    for row in costs.rows:
        if row not in known:
            raise InputError(f"{path}: rows.{row}: {summary.name} has no such row; it has {', '.join(known)}")
    return costs


def measured_on(costs: Costs) -> str:
    """How the costs were measured, in sentences."""
    height, width = costs.image_size
    return (
        f"All rows were measured in one run: {costs.hardware}, {costs.date}, commit {costs.commit}; images of "
        f"{height} × {width} px, one at a time at test time, {costs.batch} in a training step. Most of an image's time "
        "outside the network is non-maximum suppression. Memory is the peak that the work adds. A training step is a "
        "forward and a backward pass, without the optimiser. In brackets: multiple of the reference row's cost."
    )


def cost_grid(summary: TableSummary, costs: Costs) -> Grid:
    """One line for each row, with the multiple of the reference row's cost in brackets."""
    columns = {
        "parameters": ("parameters", "{:,}"),
        "s/image": ("seconds_per_image", "{:.3f}"),
        "of it network": ("network_seconds_per_image", "{:.3f}"),
        "test MiB": ("test_memory_mib", "{:,.0f}"),
        "training step MiB": ("train_step_memory_mib", "{:,.0f}"),
    }
    lines = []
    for row in summary.rows:
        reference = summary.reference(row)
        mine, theirs = costs.rows.get(row.id), costs.rows.get(reference.id) if reference else None
        cells = []
        for attribute, form in columns.values():
            value, base = getattr(mine, attribute, None), getattr(theirs, attribute, None)
            multiple = f" ({number(value / base, 2)} ×)" if value and base and mine is not theirs else ""
            cells.append(form.format(value) + multiple if value else NOT_MEASURED)
        lines.append([row.row.label, *cells])
    return Grid("Cost, measured side by side", ["row", *columns], lines, left=1)


def cost_warnings(summary: TableSummary, costs: Costs) -> Iterator[str]:
    """A sentence for each row whose measured model has another size than the model of its records."""
    for row in summary.run:
        counts, cost = {record.parameters for record in row.records}, costs.rows.get(row.id)
        if cost is not None and counts != {cost.parameters}:
            yield (
                f"{row.row.label}: the model whose cost was measured has {cost.parameters:,} parameters, the model of "
                f"the records {' and '.join(f'{count:,}' for count in sorted(counts))}."
            )


def cost_notes(summary: TableSummary, costs: Costs) -> Iterator[str]:
    """Remarks on single numbers."""
    for row in summary.rows:
        if (cost := costs.rows.get(row.id)) and cost.train_step_memory_note:
            yield f"{row.row.label}, memory of a training step: {cost.train_step_memory_note}."

"""Time, memory and parameters of the rows of a table, measured together on one machine.

The speeds in run records cannot be compared, because the runs were measured at different times, while the machine did
other work. ``benchmarks/figure1_cost.py`` measures all rows in one run, so that their costs can be compared. It writes
``records/<preset>/<table>_cost.json``.
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

# As in run records, the text "3" is not accepted as a number, and an unknown key is an error.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """The cost of one row.

    Attributes:
        seconds_per_image: time per image at test time, with batch size 1.
        network_seconds_per_image: the part of ``seconds_per_image`` that the network takes; the rest is mostly NMS.
        test_memory_mib: peak memory that testing one image adds, MiB.
        train_step_memory_mib: peak memory that the forward and backward pass of one training step add, MiB.
        train_step_memory_note: what the measured training step does if it is not a step of the row's training;
            otherwise ``None``.
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
        commit: commit of this repository at the time of the measurement.
        date: day of the measurement.
        image_size: height and width of an image, px.
        batch: images per training step.
        rows: the costs of each measured row, by row id.
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
        """Read the file ``path``.

        Raises:
            InputError: the file cannot be read, or a key (named in the message) is unknown, missing or out of range.
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
    """The path of the file with the costs of a table's rows. The file is absent if no costs were measured."""
    return records_root / preset / f"{table}_cost.json"


def costs_of(summary: TableSummary, records_root: Path) -> Costs | None:
    """Load the costs of a table's rows from ``records_root``; ``None`` if no costs were measured.

    Raises:
        InputError: the file is malformed or names a row that the table does not have.
    """
    path = costs_file(summary.name, summary.preset, records_root)
    if not path.is_file():
        return None
    costs, known = Costs.load(path), [row.id for row in summary.rows]
    for row in costs.rows:
        if row not in known:
            raise InputError(f"{path}: rows.{row}: {summary.name} has no such row; its rows are {', '.join(known)}")
    return costs


def measured_on(costs: Costs) -> str:
    """Sentences that say how the costs were measured."""
    height, width = costs.image_size
    return (
        f"The costs of all rows were measured in one run (hardware: {costs.hardware}; date: {costs.date}; commit: "
        f"{costs.commit}). Images have {height} × {width} px. At test time, the model gets one image at a time; in a "
        f"training step, {costs.batch} images. The difference of “s/image” and “network s/image” is mostly the time of "
        "non-maximum suppression. The columns in MiB show how much the memory of the process grows at its peak while "
        "it tests one image or runs one training step. A training step is a forward and a backward pass, without the "
        "optimiser. A number in brackets is the cost divided by the reference row's cost."
    )


def cost_grid(summary: TableSummary, costs: Costs) -> Grid:
    """One line for each row, with its costs. In brackets: the cost divided by the reference row's cost."""
    columns = {
        "parameters": ("parameters", "{:,}"),
        "s/image": ("seconds_per_image", "{:.3f}"),
        "network s/image": ("network_seconds_per_image", "{:.3f}"),
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
    """Warn of each row whose run records and measured costs have different numbers of parameters."""
    for row in summary.run:
        counts, cost = {record.parameters for record in row.records}, costs.rows.get(row.id)
        if cost is not None and counts != {cost.parameters}:
            yield (
                f"{row.row.label}: the model in the cost measurement has {cost.parameters:,} parameters, but the model "
                f"in the run records has {' and '.join(f'{count:,}' for count in sorted(counts))}."
            )


def cost_notes(summary: TableSummary, costs: Costs) -> Iterator[str]:
    """Yield the notes on how the memory of a training step was measured, for rows that have such a note."""
    for row in summary.rows:
        if (cost := costs.rows.get(row.id)) and cost.train_step_memory_note:
            yield f"{row.row.label}, memory of a training step: {cost.train_step_memory_note}."

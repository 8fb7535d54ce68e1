"""Find rows whose runs were made under different conditions; they are not averaged, and the pages name them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from fpn_lightning.runs.conditions import differing
from fpn_lightning.runs.record import Record


@dataclass(frozen=True)
class MixedRow:
    """A row whose records cannot be averaged, because their conditions differ.

    Attributes:
        table: ``table1`` or ``tuning/table1/lr0.006``.
        row: ``c_fpn``.
        warning: a sentence that names the records and what differs.
    """

    table: str
    row: str
    warning: str


def set_apart(records: Iterable[Record]) -> tuple[list[Record], list[MixedRow]]:
    """Separate records that may be averaged from rows whose records differ.

    Args:
        records: of one preset and any tables.

    Returns:
        The records that may be averaged, ordered by table, row and seed; and the other rows.
    """
    kept: list[Record] = []
    mixed: list[MixedRow] = []
    ordered = sorted(records, key=lambda r: (r.experiment.table, r.experiment.row, r.experiment.seed))
    for (table, row), group in groupby(ordered, key=lambda r: (r.experiment.table, r.experiment.row)):
        runs = list(group)
        if found := differing(runs):
            mixed.append(MixedRow(table, row, _warning(table, row, runs, found)))
        else:
            kept += runs
    return kept, mixed


def _warning(table: str, row: str, runs: list[Record], found: dict[str, dict[str, list[Record]]]) -> str:
    def seeds(having: list[Record]) -> str:
        numbers = ", ".join(str(record.experiment.seed) for record in having)
        return f"{'seed' if len(having) == 1 else 'seeds'} {numbers}"

    parts = (
        f"{key} is {', '.join(f'{value} ({seeds(having)})' for value, having in values.items())}"
        for key, values in found.items()
    )
    files = ", ".join(f"records/{record.experiment.path}.json" for record in runs)
    return (
        f"The runs of {table}/{row} are not averaged and their numbers are not shown, because they differ: "
        f"{'; '.join(parts)}. The records are {files}. Run all seeds with one configuration, or remove the records "
        "of the others."
    )

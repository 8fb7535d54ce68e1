"""Find rows whose runs differ in data, schedule or configuration. Such runs are not averaged; the pages name them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from fpn_lightning.runs.conditions import differing
from fpn_lightning.runs.record import Record


def cell(record: Record) -> str:
    """Table and row of a run: ``table1/c_fpn``."""
    return f"{record.experiment.table}/{record.experiment.row}"


def set_apart(records: Iterable[Record]) -> tuple[list[Record], dict[str, str]]:
    """Split the records of one preset into rows whose runs may be averaged and rows whose runs differ.

    Returns:
        The records that may be averaged, ordered by table, row and seed; and a dictionary from each row whose runs
        differ (``table1/c_fpn``) to a warning, which names the records of this row and the differences.
    """
    kept: list[Record] = []
    warnings: dict[str, str] = {}
    ordered = sorted(records, key=lambda record: (cell(record), record.experiment.seed))
    for name, group in groupby(ordered, key=cell):
        runs = list(group)
        if found := differing(runs):
            warnings[name] = _warning(name, runs, found)
        else:
            kept += runs
    return kept, warnings


def _warning(name: str, runs: list[Record], found: dict[str, dict[str, list[Record]]]) -> str:
    def seeds(having: list[Record]) -> str:
        numbers = ", ".join(str(record.experiment.seed) for record in having)
        return f"{'seed' if len(having) == 1 else 'seeds'} {numbers}"

    parts = (
        f"{key} is {', '.join(f'{value} ({seeds(having)})' for value, having in values.items())}"
        for key, values in found.items()
    )
    files = ", ".join(f"records/{record.experiment.path}.json" for record in runs)
    return (
        f"The runs of {name} are not averaged and their numbers are not shown, because the runs differ: "
        f"{'; '.join(parts)}. The records are {files}. Run all seeds with the same configuration, or remove the "
        "records of all configurations but one."
    )

"""Rows of a table run a second time on another trunk: does what is said of them still hold?

The records of the second run carry a table name of their own (``experiment.table: deep_c2``), so that they never enter
the first table's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from fpn_lightning.reporting.grids import Grid, measured, number
from fpn_lightning.reporting.keys import size_keys
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.pairs import Difference, difference
from fpn_lightning.reporting.reading import amount, listed, short
from fpn_lightning.reporting.summary import RowSummary, TableSummary, statistic
from fpn_lightning.runs.record import Record


@dataclass(frozen=True)
class Variant:
    """Two ways to run the same rows.

    Attributes:
        of: the table whose rows are run again, ``table1``.
        table: what the records of the second run call their table.
        title: heading of the section.
        first: what the table's own records were run with.
        second: what the others were run with.
        why: sentences before the numbers.
    """

    of: str
    table: str
    title: str
    first: str
    second: str
    why: str


VARIANTS = (
    Variant(
        of="table1",
        table="deep_c2",
        title="Shallow against deep C2",
        first="shallow C2",
        second="deep C2",
        why=(
            "The trunk of the table above makes C2 by a stem without a residual block, so that C2 sees little more "
            "than a small object; the other has one block there and sees twice as far. The first imitates what the "
            "paper's trunk brings with it, fine maps that are less semantic than coarse ones."
        ),
    ),
)


@dataclass(frozen=True)
class Section:
    """A heading, a table and what it says."""

    grid: Grid
    before: str
    after: list[str]


def sections(summary: TableSummary, records: list[Record]) -> list[Section]:
    """The variants of a table that have records of the reference row and of another one, both ways.

    Args:
        summary: the table, which holds the first records.
        records: all records of the preset.
    """
    kept, _ = set_apart(records)
    found = (_section(variant, summary, kept) for variant in VARIANTS if variant.of == summary.name)
    return [section for section in found if section is not None]


def warnings(summary: TableSummary, records: list[Record]) -> list[str]:
    """The rows of a table's variants that are left out since their runs differ; arguments as :func:`sections`."""
    tables = {variant.table for variant in VARIANTS if variant.of == summary.name}
    return [found.warning for found in set_apart(records)[1] if found.table in tables]


def _section(variant: Variant, summary: TableSummary, records: list[Record]) -> Section | None:
    second: dict[str, list[Record]] = {}
    for record in records:
        if record.experiment.table == variant.table:
            second.setdefault(record.experiment.row, []).append(record)
    rows = [row for row in summary.run if row.id in second]
    reference = next((row for row in rows if row.id == summary.table.reference), None)
    if reference is None or len(rows) < 2:
        return None
    others = [row for row in rows if row is not reference]
    keys = [*(column.key for column in summary.extra), summary.main.key, *(size_keys(summary.main.key) or ())]
    lines, after = [], []
    for name, runs in ((variant.first, {row.id: row.records for row in rows}), (variant.second, second)):
        for row in (reference, *others):
            cells = [measured(statistic([r.metrics for r in runs[row.id]], key), has_records=True) for key in keys]
            lines.append([name, row.row.label, str(len(runs[row.id])), *cells])
        for row in others:
            leads = {key: difference(runs[reference.id], runs[row.id], key) for key in keys}
            seeds = max(len(lead.values) for lead in leads.values())
            what = f"{short(reference)} less {short(row)}"
            lines.append([name, what, str(seeds), *(amount(lead) if lead.values else "–" for lead in leads.values())])
            after.append(_sentence(name, reference, row, leads))
    if mixed := _mixed(variant, summary, second):
        after.insert(0, mixed)
    return Section(Grid(variant.title, ["trunk", "row", "seeds", *keys], lines, left=2), variant.why, after)


def _sentence(name: str, reference: RowSummary, row: RowSummary, leads: dict[str, Difference]) -> str:
    other = short(row)
    named = {
        1: f"above {other}",
        -1: f"below {other}",
        0: f"not told apart from {other}",
        None: f"not judged against {other}, for want of seeds,",
    }
    parts = []
    for sign, word in named.items():
        if keys := [f"{key} ({_mean(lead)})" for key, lead in leads.items() if lead.sign == sign and lead.values]:
            parts.append(f"{word} in {listed(keys)}")
    return f"With the {name} {short(reference)} is {'; '.join(parts)}." if parts else ""


def _mean(lead: Difference) -> str:
    return number(lead.mean, sign=True)


def _mixed(variant: Variant, summary: TableSummary, second: dict[str, list[Record]]) -> str:
    """A warning where the two ways differ in more than the trunk."""

    def conditions(records: list[Record]) -> set[tuple[str, str, int, int]]:
        return {(r.data.fingerprint, r.data.split, r.train.steps, r.train.total_batch) for r in records}

    first = [record for row in summary.run if row.id in second for record in row.records]
    again = [record for row in summary.run for record in second.get(row.id, [])]
    if conditions(first) == conditions(again):
        return ""
    return (
        f"Warning: {variant.first} and {variant.second} differ in data, split, steps or batch, not in the trunk alone."
    )

"""Which row stands above which: the paper's order beside ours, and what the seeds leave open."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from fpn_lightning.paper import Column
from fpn_lightning.reporting.keys import SIZES
from fpn_lightning.reporting.pairs import Difference, difference
from fpn_lightning.reporting.summary import RowSummary, TableSummary

_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}


@dataclass(frozen=True)
class Pair:
    """Two rows under one column: the paper's difference (``first`` less ``second``, points) and ours."""

    column: Column
    first: RowSummary
    second: RowSummary
    paper: float
    ours: Difference

    @property
    def agrees(self) -> bool | None:
        """Whether ours is ordered as the paper's; ``None`` if the seeds do not tell, or there are too few."""
        return self.ours.sign * self.paper > 0 if self.ours.sign else None


def pairs(summary: TableSummary) -> list[Pair]:
    """All pairs of rows of ours that the paper's cells order.

    A column that the paper lacks (AR10) is held against the table's main column (AR100).
    """
    found = []
    rows = [row for row in summary.run if row.row.metrics]
    for column in summary.columns:
        cell = summary.main.key if column in summary.extra else column.key
        for first, second in combinations(rows, 2):
            here, there = first.row.metrics.get(cell), second.row.metrics.get(cell)
            if here is not None and there is not None and here != there:
                ours = difference(first.records, second.records, column.key)
                if ours.values:
                    found.append(Pair(column, first, second, here - there, ours))
    return found


def outcomes(found: list[Pair]) -> tuple[list[Pair], list[Pair], list[Pair], list[Pair]]:
    """As in the paper, the other way round, not told apart, too few seeds."""
    return (
        [pair for pair in found if pair.agrees is True],
        [pair for pair in found if pair.agrees is False],
        [pair for pair in found if pair.ours.sign == 0],
        [pair for pair in found if pair.ours.sign is None],
    )


def ranks(summary: TableSummary, moved: RowSummary) -> tuple[str, str] | None:
    """Where a row stands by the main column among the rows run, in the paper and here."""
    key = summary.main.key
    means = {row.id: found.mean for row in summary.run if row.row.metrics and (found := row.ours(key))}
    ours = {row: mean for row, mean in means.items() if mean is not None}
    paper = {row.id: row.row.metrics[key] for row in summary.run if key in row.row.metrics and row.id in ours}
    if moved.id not in paper:
        return None

    def place(values: dict[str, float]) -> str:
        rank = 1 + sum(values[other] > values[moved.id] for other in paper)
        return _ORDINALS.get(rank, f"{rank}th")

    return place(paper), place(ours)


def paper_size(summary: TableSummary, row: RowSummary, keys: tuple[str, str, str]) -> str | None:
    """The object size on which the reference row leads another by most, from the paper's cells."""
    gaps = [summary.paper_gap(row, key) for key in keys]
    leads = [-gap for gap in gaps if gap is not None]
    return f"{list(SIZES.values())[leads.index(max(leads))]} objects" if len(leads) == len(keys) else None


def our_size(summary: TableSummary, row: RowSummary, keys: tuple[str, str, str]) -> str | None:
    """The same from our records: the size with the largest lead, and those that the seeds do not tell from it."""
    leads = [-summary.paired_gap(row, key) for key in keys]
    if len({len(lead.values) for lead in leads}) > 1 or len(leads[0].values) < 2:
        return None
    ranked = sorted(zip(leads, SIZES.values(), strict=True), key=lambda item: -sum(item[0].values))
    best, name = ranked[0]
    close = [
        other
        for lead, other in ranked[1:]
        if not Difference(tuple(a - b for a, b in zip(best.values, lead.values, strict=True))).sign
    ]
    return "no size in particular" if len(close) == len(SIZES) - 1 else f"{' or '.join([name, *close])} objects"

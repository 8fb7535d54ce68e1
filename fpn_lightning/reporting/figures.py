"""The figures beside a table: metric by object size, recall against proposals, gaps to the reference row.

What a figure shows is taken from the table's columns and worked out here; ``plots.py`` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fpn_lightning.reporting.keys import SIZES, proposal_count, size_keys
from fpn_lightning.reporting.summary import RowSummary, TableSummary


@dataclass(frozen=True)
class Point:
    """One number in percent or points, and its sample standard deviation over seeds where there is one."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes: for each row, by id, a point or nothing at each of ``places``."""

    title: str
    places: list[str]
    rows: dict[str, list[Point | None]]


@dataclass(frozen=True)
class Shown:
    """A figure that was written, and what to say below it."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Cloud:
    """A pair of axes with what a row costs along x, a plain number, and what it brings up y, by row."""

    x_label: str
    rows: dict[str, tuple[float, Point]]


def point(row: RowSummary, key: str) -> Point | None:
    """The row's metric over its seeds; ``None`` where there is no number."""
    found = row.ours(key)
    return None if found is None or found.mean is None else Point(found.mean, found.std)


def _filled(rows: dict[str, list[Point | None]]) -> dict[str, list[Point | None]]:
    return {row: points for row, points in rows.items() if any(points)}


def by_size(summary: TableSummary) -> list[Panel]:
    """A panel of ours and one of the paper's for every column that COCO parts by object size and that has numbers."""
    panels = []
    for column in summary.table.columns:
        keys = size_keys(column.key)
        if keys is None:
            continue
        name = f"{column.group} {column.heading}" if column.group else column.heading
        ours = _filled({row.id: [point(row, key) for key in keys] for row in summary.run})
        if not ours:
            continue
        cells = {
            row.id: [Point(row.row.metrics[key]) if key in row.row.metrics else None for key in keys]
            for row in summary.run
        }
        panels.append(Panel(f"{name}, ours", list(SIZES.values()), ours))
        if paper := _filled(cells):
            panels.append(Panel(f"{name}, paper", list(SIZES.values()), paper))
    return panels


def by_proposals(summary: TableSummary) -> Panel | None:
    """Recall of each row at every number of proposals recorded; ``None`` if there are not two such numbers.

    Nothing for tables of precision: a detector's recall is that of its detections.
    """
    if not any(proposal_count(column.key) for column in summary.table.columns):
        return None
    counts: dict[int, str] = {}
    for row in summary.run:
        for record in row.records:
            for key in record.metrics:
                if (count := proposal_count(key)) is not None:
                    counts[count] = key
    if len(counts) < 2:
        return None
    places = sorted(counts)
    rows = _filled({row.id: [point(row, counts[count]) for count in places] for row in summary.run})
    return Panel("Recall", [str(count) for count in places], rows) if rows else None


@dataclass(frozen=True)
class Gaps:
    """One column's gaps to the reference row in points, by row: the paper's and ours."""

    title: str
    paper: dict[str, Point]
    ours: dict[str, Point]


def by_gap(summary: TableSummary) -> list[Gaps]:
    """The gaps of every column in which a row of ours has one."""
    if summary.reference is None:
        return []
    rows = [row for row in summary.run if row.id != summary.table.reference]
    found = []
    for column in summary.columns:
        paper = {row.id: summary.paper_gap(row, column.key) for row in rows}
        ours = {row.id: summary.ours_gap(row, column.key) for row in rows}
        spread = {row.id: summary.paired_gap(row, column.key).std for row in rows}
        found.append(
            Gaps(
                f"{column.group} {column.heading}" if column.group else column.heading,
                {row: Point(gap) for row, gap in paper.items() if gap is not None},
                {row: Point(gap, spread[row]) for row, gap in ours.items() if gap is not None},
            )
        )
    return [gaps for gaps in found if gaps.ours]

"""The numbers in a table's figures: by object size, by number of proposals, gaps, cost. ``plots.py`` draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fpn_lightning.metric_names import SIZES, proposal_count, size_keys
from fpn_lightning.reporting.costs import Costs, RowCost
from fpn_lightning.reporting.summary import RowSummary, TableSummary


@dataclass(frozen=True)
class Point:
    """A number in percent or points and its sample standard deviation over seeds; ``None`` below two seeds."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes: for each row id, a point or ``None`` at each of ``places``."""

    title: str
    places: list[str]
    rows: dict[str, list[Point | None]]


@dataclass(frozen=True)
class Shown:
    """A figure that was written, its title and its caption."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Cloud:
    """One pair of axes with the cost of a row along x and its metric along y, by row id."""

    x_label: str
    rows: dict[str, tuple[float, Point]]


def point(row: RowSummary, key: str) -> Point | None:
    """The row's metric over its seeds; ``None`` if it has no number."""
    found = row.ours(key)
    return None if found is None or found.mean is None else Point(found.mean, found.std)


def _filled(rows: dict[str, list[Point | None]]) -> dict[str, list[Point | None]]:
    return {row: points for row, points in rows.items() if any(points)}


def by_size(summary: TableSummary) -> list[Panel]:
    """For each column that COCO splits by object size, a panel of our numbers and one of the paper's, if it has any."""
    panels = []
    for column in summary.table.columns:
        keys = size_keys(column.key)
        if keys is None:
            continue
        ours = _filled({row.id: [point(row, key) for key in keys] for row in summary.run})
        if not ours:
            continue
        cells = {
            row.id: [Point(row.row.metrics[key]) if key in row.row.metrics else None for key in keys]
            for row in summary.run
        }
        panels.append(
            Panel(
                f"{column.full_heading}, ours" if not summary.table.ours else column.heading, list(SIZES.values()), ours
            )
        )
        if paper := _filled(cells):
            panels.append(Panel(f"{column.full_heading}, paper", list(SIZES.values()), paper))
    return panels


def by_proposals(summary: TableSummary) -> Panel | None:
    """Recall of each row at every number of proposals in its records; ``None`` below two such numbers.

    ``None`` also for tables of AP, where recall is that of the detections, not of proposals.
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
    """The gaps of one column to the reference row in points, by row id: the paper's and ours."""

    title: str
    paper: dict[str, Point]
    ours: dict[str, Point]


def by_gap(summary: TableSummary) -> list[Gaps]:
    """The gaps of every column in which our rows have one, for a table with gaps of the paper to compare them with."""
    rows = [row for row in summary.run if (reference := summary.reference(row)) and reference.id != row.id]
    found = []
    for column in summary.columns:
        paper = {row.id: summary.paper_gap(row, column.key) for row in rows}
        ours = {row.id: summary.ours_gap(row, column.key) for row in rows}
        spread = {row.id: summary.paired_gap(row, column.key).std for row in rows}
        found.append(
            Gaps(
                column.full_heading,
                {row: Point(gap) for row, gap in paper.items() if gap is not None},
                {row: Point(gap, spread[row]) for row, gap in ours.items() if gap is not None},
            )
        )
    return [gaps for gaps in found if gaps.ours] if any(gaps.paper for gaps in found) else []


def by_cost(summary: TableSummary, costs: Costs) -> list[Cloud]:
    """The main metric against time and memory, for the rows that have both."""
    axes: list[tuple[str, Callable[[RowCost], float]]] = [
        ("seconds an image, test time", lambda cost: cost.seconds_per_image),
        ("memory at test time (MiB)", lambda cost: cost.test_memory_mib),
        ("memory of a training step (MiB)", lambda cost: cost.train_step_memory_mib),
    ]
    found = {
        row.id: brought
        for row in summary.run
        if row.id in costs.rows and (brought := point(row, summary.table.main.key))
    }
    if not found:
        return []
    return [Cloud(label, {row: (cost(costs.rows[row]), found[row]) for row in found}) for label, cost in axes]

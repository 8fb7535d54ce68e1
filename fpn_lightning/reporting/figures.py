"""The data of a table's figures, which ``plots.py`` draws.

Figures show metrics by object size, by number of proposals, by training step and by cost, and the gaps between rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fpn_lightning.metric_names import SIZES, percent, proposal_count, size_keys
from fpn_lightning.reporting.costs import Costs
from fpn_lightning.reporting.seeds import Sample
from fpn_lightning.reporting.summary import RowSummary, TableSummary

Point = tuple[float, float | None]
"""A number in percent or points, and its sample standard deviation over seeds (``None`` with fewer than two seeds)."""


@dataclass(frozen=True)
class Panel:
    """One subplot.

    Attributes:
        title: metric that is plotted.
        places: labels of the x axis.
        rows: dict from a row id to a list with one point for each label; ``None`` if the row has no number there.
    """

    title: str
    places: list[str]
    rows: dict[str, list[Point | None]]


@dataclass(frozen=True)
class Gaps:
    """Gaps to the reference row in one column, in points: dicts from a row id to the paper's gap and to our gap."""

    title: str
    paper: dict[str, Point]
    ours: dict[str, Point]


@dataclass(frozen=True)
class Cloud:
    """One scatter plot. ``rows`` is a dict from a row id to the cost (x) and the metric (y) of this row."""

    x_label: str
    rows: dict[str, tuple[float, Point]]


@dataclass(frozen=True)
class Shown:
    """A figure file with its title and caption."""

    path: Path
    title: str
    caption: str


def _ours(row: RowSummary, key: str) -> Point | None:
    return _point(row.ours(key))


def _point(found: Sample | None) -> Point | None:
    return None if found is None or found.mean is None else (found.mean, found.std)


def _panel(title: str, places: Iterable[str], rows: dict[str, list[Point | None]]) -> list[Panel]:
    """A list with one panel of the rows that have at least one point; an empty list if there are no such rows."""
    filled = {row: points for row, points in rows.items() if any(points)}
    return [Panel(title, list(places), filled)] if filled else []


def by_size(summary: TableSummary) -> list[Panel]:
    """For each metric that COCO splits by object size: a panel with our numbers, and one with the paper's, if any."""
    panels = []
    for column in summary.table.columns:
        keys = size_keys(column.key) or ()
        title = column.heading if summary.table.ours else f"{column.full_heading}, ours"
        ours = {row.id: [_ours(row, key) for key in keys] for row in summary.run}
        paper: dict[str, list[Point | None]] = {
            row.id: [(row.row.metrics[key], None) if key in row.row.metrics else None for key in keys]
            for row in summary.run
        }
        if shown := _panel(title, SIZES.values(), ours):
            panels += shown + _panel(f"{column.full_heading}, paper", SIZES.values(), paper)
    return panels


def by_proposals(summary: TableSummary) -> list[Panel]:
    """One panel in a list: the recall of each row against the number of proposals.

    The list is empty if the records do not have the recall at two or more numbers of proposals. It is also empty for
    tables of AP, because the recall in their records is measured on detections, not on proposals.
    """
    keys = {key for row in summary.run for record in row.records for key in record.metrics}
    counts = {count: key for key in sorted(keys) if (count := proposal_count(key)) is not None}
    if len(counts) < 2 or not any(proposal_count(column.key) for column in summary.table.columns):
        return []
    places = sorted(counts)
    rows = {row.id: [_ours(row, counts[count]) for count in places] for row in summary.run}
    return _panel("recall", map(str, places), rows)


def by_step(summary: TableSummary) -> list[Panel]:
    """Learning curves: a panel for each column whose metric was validated at three or more training steps."""
    panels = []
    for column in summary.columns:
        curves = {row.id: [dict(run.curves.get(f"val/{column.key}", ())) for run in row.records] for row in summary.run}
        steps = sorted({step for runs in curves.values() for curve in runs for step in curve})
        if len(steps) > 2:
            rows = {
                row: [_point(Sample(tuple(percent(run[step]) for run in runs if step in run))) for step in steps]
                for row, runs in curves.items()
            }
            panels += _panel(column.full_heading, map(str, steps), rows)
    return panels


def by_gap(summary: TableSummary) -> list[Gaps]:
    """One ``Gaps`` for each column in which our rows have gaps; an empty list if the paper has no gaps at all."""
    rows = [row for row in summary.run if (reference := summary.reference(row)) and reference.id != row.id]
    found = []
    for column in summary.columns:
        theirs = {row.id: summary.paper_gap(row, column.key) for row in rows}
        paper: dict[str, Point] = {row: (gap, None) for row, gap in theirs.items() if gap is not None}
        ours = {
            row.id: (gap, summary.paired_gap(row, column.key).std)
            for row in rows
            if (gap := summary.ours_gap(row, column.key)) is not None
        }
        found.append(Gaps(column.full_heading, paper, ours))
    return [gaps for gaps in found if gaps.ours] if any(gaps.paper for gaps in found) else []


def by_cost(summary: TableSummary, costs: Costs) -> list[Cloud]:
    """Plots of the main metric against time and memory, with the rows that have both records and measured costs."""
    axes = {
        "seconds an image, test time": "seconds_per_image",
        "memory at test time (MiB)": "test_memory_mib",
        "memory of a training step (MiB)": "train_step_memory_mib",
    }
    points = {row.id: point for row in summary.run if (point := _ours(row, summary.table.main.key))}
    rows = [row for row in points if row in costs.rows]
    return [
        Cloud(label, {row: (getattr(costs.rows[row], attribute), points[row]) for row in rows})
        for label, attribute in axes.items()
        if rows
    ]

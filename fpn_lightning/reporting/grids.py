"""What a table shows, as text cells: the same for Markdown, LaTeX and the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from fpn_lightning.paper import Column
from fpn_lightning.reporting.keys import size_keys
from fpn_lightning.reporting.summary import RowSummary, Statistic, TableSummary
from fpn_lightning.runs.record import Record


@dataclass(frozen=True)
class Grid:
    """A rectangle of text cells; the first ``left`` columns are words, the others numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    left: int


def number(value: float | None, places: int = 1, sign: bool = False) -> str:
    """A number for a cell; empty for ``None``, and never "-0.0"."""
    if value is None:
        return ""
    rounded = round(value, places) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:+.{places}f}" if sign and rounded else f"{rounded:.{places}f}"


def measured(statistic: Statistic | None, has_records: bool) -> str:
    """Mean ± spread of a metric; "–" for a size class without ground truth, "n/a" for a metric not recorded."""
    if not has_records:
        return ""
    if statistic is None:
        return "n/a"
    if statistic.mean is None:
        return "–"
    spread = f" ± {number(statistic.std)}" if statistic.std is not None else ""
    return number(statistic.mean) + spread


def status(row: RowSummary) -> str:
    """The number of seeds, or why there is none."""
    if row.row.literature:
        return "literature"
    if row.mixed:
        return "mixed"
    return str(len(row.records)) if row.records else "not run"


def gap_cell(summary: TableSummary, row: RowSummary, key: str) -> str:
    """Our gap to the reference row; its spread seed by seed where both rows ran with the same seeds."""
    gap, paired = summary.ours_gap(row, key), summary.paired_gap(row, key)
    reference = summary.reference
    same = reference is not None and len(paired.values) == len(row.records) == len(reference.records)
    spread = f" ± {number(paired.std)}" if same and paired.std is not None else ""
    return number(gap, sign=True) + spread


def results(summary: TableSummary) -> list[Grid]:
    """The paper's numbers and ours side by side, one grid for each block of columns.

    A row whose model was also measured before training has a second line with those numbers.
    """
    grids: list[Grid] = []
    for group in dict.fromkeys(column.group for column in summary.table.columns):
        columns = [column for column in summary.table.columns if column.group == group]
        extra = [] if grids else summary.extra
        header = ["row", "seeds"]
        for column in extra:
            header.append(f"{column.heading} ours")
        for column in columns:
            header += [f"{column.heading} paper", "ours"]
        rows = []
        for row in summary.rows:
            if row.row.literature and not any(column.key in row.row.metrics for column in columns):
                continue
            cells = [row.row.label, status(row)]
            for column in [*extra, *columns]:
                if column in columns:
                    cells.append(number(row.row.metrics.get(column.key)))
                cells.append(measured(row.ours(column.key), bool(row.records)))
            rows.append(cells)
            if any(record.untrained for record in row.records):
                cells = ["    the same model, untrained", ""]
                for column in [*extra, *columns]:
                    cells += [""] if column in columns else []
                    cells.append(measured(row.untrained(column.key), has_records=True))
                rows.append(cells)
        grids.append(Grid(f"Results, {group}" if group else "Results", header, rows, left=2))
    return grids


def gaps(summary: TableSummary) -> list[Grid]:
    """Each row less the reference row: the paper's gap beside ours. Nothing if no row of ours has a gap.

    Rows that have neither gap are left out.
    """
    if summary.reference is None:
        return []
    rows_run = [row for row in summary.rows if not row.row.literature and row.id != summary.table.reference]
    if not any(summary.ours_gap(row, column.key) is not None for row in rows_run for column in summary.columns):
        return []
    header = ["row"]
    for column in summary.columns:
        header += [f"{column.heading} ours"] if column in summary.extra else [f"{column.heading} paper", "ours"]
    rows = []
    for row in rows_run:
        cells = [row.row.label]
        for column in summary.columns:
            if column not in summary.extra:
                cells.append(number(summary.paper_gap(row, column.key), sign=True))
            cells.append(gap_cell(summary, row, column.key))
        if any(cells[1:]):
            rows.append(cells)
    return [Grid(f"Gap to “{summary.reference.row.label}”, in points", header, rows, left=1)]


def differences(summary: TableSummary) -> list[Grid]:
    """Ours less the paper's, for rows whose data, schedule and trunk are the paper's. Nothing if there is none."""
    comparable = [row for row in summary.rows if row.comparable and row.row.metrics]
    if not comparable:
        return []

    def heading(column: Column) -> str:
        return f"{column.group} {column.heading}" if column.group else column.heading

    header = ["row", *(heading(column) for column in summary.table.columns)]
    rows = [
        [row.row.label] + [number(summary.difference(row, column.key), sign=True) for column in summary.table.columns]
        for row in comparable
    ]
    return [Grid("Difference to the paper (ours less paper), in points", header, rows, left=1)]


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _each(records: list[Record], values: Iterable[int]) -> str:
    return ", ".join(f"{value:,}" for value in sorted(set(values))) if records else ""


def _speed(records: list[Record]) -> list[str]:
    """Parameters, s/step and s/image."""
    return [
        _each(records, (record.parameters for record in records)),
        number(_average(record.train.seconds_per_step for record in records), 3),
        number(_average(record.eval.seconds_per_image for record in records), 3),
    ]


def cost(summary: TableSummary) -> Grid:
    """One line a row: the paper's description of it, its config, and what it cost to train and to run."""
    timed = any(row.row.seconds_per_image is not None for row in summary.rows)
    header = ["row", "config", *summary.table.details, "parameters", "steps", "batch", "lr", "s/step", "s/image"]
    header += [*(["paper s/image"] if timed else []), "peak MiB"]
    rows = []
    for row in summary.rows:
        config = "" if row.row.literature else row.shared_from or f"{summary.name}/{row.id}"
        records = row.records
        cells = [row.row.label, config, *(row.row.details.get(name, "") for name in summary.table.details)]
        parameters, *seconds = _speed(records)
        cells += [
            parameters,
            _each(records, (record.train.steps for record in records)),
            _each(records, (record.train.total_batch for record in records)),
            ", ".join(f"{lr:g}" for lr in sorted({r.train.lr for r in records if r.train.lr is not None})),
            *seconds,
        ]
        if timed:
            papers = row.row.seconds_per_image
            cells.append("" if papers is None else f"{papers:g} ({row.row.device})")
        peaks = [record.peak_memory_mib for record in records if record.peak_memory_mib is not None]
        cells.append(f"{max(peaks):,.0f}" if peaks else "")
        rows.append(cells)
    return Grid("Rows and their cost", header, rows, left=2 + len(summary.table.details))


def overview(summary: TableSummary) -> list[Grid]:
    """What each row costs and what it brings, few columns. Nothing if there are no two rows to compare."""
    if len(summary.run) < 2:
        return []
    metrics = [*(column.key for column in summary.extra[:1]), summary.main.key]
    small = (size_keys(summary.main.key) or ())[:1]
    metrics += [key for key in small if any(row.ours(key) for row in summary.run)]
    reference = summary.reference
    headings = {column.key: column.heading for column in summary.columns}
    header = ["row", "seeds", "parameters", "s/step", "s/image", *(headings.get(key, key) for key in metrics)]
    header += [f"{summary.main.heading} gap to “{reference.row.label}”"] if reference else []
    rows = []
    for row in summary.run:
        cells = [row.row.label, status(row), *_speed(row.records)]
        cells += [measured(row.ours(key), has_records=True) for key in metrics]
        if reference:
            cells.append("" if row.id == reference.id else gap_cell(summary, row, summary.main.key))
        rows.append(cells)
    return [Grid("What each design costs and brings", header, rows, left=2)]


def all_grids(summary: TableSummary) -> list[Grid]:
    """Everything a table shows, in order."""
    return [*overview(summary), *results(summary), *differences(summary), *gaps(summary), cost(summary)]

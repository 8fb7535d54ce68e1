"""Tables of text cells, which are shown alike in Markdown, in LaTeX and on the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from fpn_lightning.paper import Column
from fpn_lightning.reporting.seeds import Sample
from fpn_lightning.reporting.summary import RowSummary, TableSummary


@dataclass(frozen=True)
class Grid:
    """A table of text cells. The first ``left`` columns contain words, aligned left; the rest contain numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    left: int


def number(value: float | None, places: int = 1, sign: bool = False) -> str:
    """Format a number for a cell. ``None`` gives an empty text; zero never gets a minus sign."""
    if value is None:
        return ""
    rounded = round(value, places) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:+.{places}f}" if sign and rounded else f"{rounded:.{places}f}"


def with_spread(mean: float | None, std: float | None, sign: bool = False) -> str:
    """Format a mean and a sample standard deviation: ``+1.2 ± 0.3``."""
    return number(mean, sign=sign) + ("" if std is None else f" ± {number(std)}")


def measured(sample: Sample | None) -> str:
    """Format a metric: "–" if no ground truth has the object size, "n/a" if no record has the metric."""
    if sample is None:
        return "n/a"
    return with_spread(sample.mean, sample.std) or "–"


def status(row: RowSummary) -> str:
    """The number of seeds, or the reason why we have no numbers for the row."""
    if row.row.literature:
        return "literature"
    if row.mixed:
        return "mixed"
    return str(len(row.records)) if row.records else "not run"


def gap_cell(summary: TableSummary, row: RowSummary, key: str) -> str:
    """Format our gap to the reference row, in points.

    If both rows have the same seeds, the standard deviation follows, and a dot (·) if the gap is within noise.
    """
    gap, paired, reference = summary.ours_gap(row, key), summary.paired_gap(row, key), summary.reference(row)
    same = reference is not None and len(paired.values) == len(row.records) == len(reference.records)
    return with_spread(gap, paired.std if same else None, sign=True) + (" ·" if same and paired.sign == 0 else "")


def results(summary: TableSummary) -> list[Grid]:
    """The paper's numbers and ours side by side, one grid for each group of columns, such as test-dev.

    If the model of a row was also evaluated before training, a second line shows its numbers before training.
    """
    grids: list[Grid] = []
    for group in dict.fromkeys(column.group for column in summary.table.columns):
        own = [column for column in summary.table.columns if column.group == group]
        columns = own if grids else [*summary.extra, *own]
        rows = []
        for row in summary.rows:
            if row.row.literature and not any(column.key in row.row.metrics for column in own):
                continue
            paper = {column.key: number(row.row.metrics.get(column.key)) for column in own}
            ours = {column.key: measured(row.ours(column.key)) if row.records else "" for column in columns}
            rows.append([row.row.label, status(row), *_side_by_side(summary, columns, paper, ours)])
            if any(record.untrained for record in row.records):
                before = {column.key: measured(row.untrained(column.key)) for column in columns}
                rows.append(["    the same model, untrained", "", *_side_by_side(summary, columns, {}, before)])
        header = ["row", "seeds", *_headings(summary, columns)]
        grids.append(Grid(f"Results, {group}" if group else "Results", header, rows, left=2))
    return grids


def _has_paper(summary: TableSummary, column: Column) -> bool:
    return not (summary.table.ours or column in summary.extra)


def _headings(summary: TableSummary, columns: Iterable[Column]) -> list[str]:
    headings = []
    for column in columns:
        name = column.heading if summary.table.ours else f"{column.heading} ours"
        headings += [f"{column.heading} paper", "ours"] if _has_paper(summary, column) else [name]
    return headings


def _side_by_side(
    summary: TableSummary, columns: Iterable[Column], paper: dict[str, str], ours: dict[str, str]
) -> list[str]:
    """The cells of one line, in the order of :func:`_headings`.

    ``paper`` and ``ours`` are dictionaries from the name of a metric to the text of its cell.
    """
    cells = []
    for column in columns:
        cells += [paper.get(column.key, "")] if _has_paper(summary, column) else []
        cells.append(ours[column.key])
    return cells


def gaps(summary: TableSummary) -> list[Grid]:
    """The gap of each row to its reference row, the paper's beside ours.

    The list is empty if none of our rows has a gap. A row is left out if neither we nor the paper have a gap for it.
    """
    columns, references, lines, run = summary.columns, [], [], False
    for row in summary.rows:
        reference = summary.reference(row)
        if row.row.literature or reference is None or reference.id == row.id:
            continue
        paper = {column.key: number(summary.paper_gap(row, column.key), sign=True) for column in columns}
        ours = {column.key: gap_cell(summary, row, column.key) for column in columns}
        run = run or any(ours.values())
        if any(paper.values()) or any(ours.values()):
            references.append(reference.row.label)
            lines.append([row.row.label, *_side_by_side(summary, columns, paper, ours)])
    if not run:
        return []
    if len(set(references)) == 1:
        return [Grid(f"Gap to “{references[0]}”, in points", ["row", *_headings(summary, columns)], lines, left=1)]
    lines = [[f"{line[0]} minus {reference}", *line[1:]] for line, reference in zip(lines, references, strict=True)]
    return [Grid("Gaps, in points", ["rows", *_headings(summary, columns)], lines, left=1)]


def differences(summary: TableSummary) -> list[Grid]:
    """Our numbers minus the paper's; no grid if no row was run with the paper's data, schedule and backbone."""
    comparable = [row for row in summary.rows if row.comparable and row.row.metrics]
    columns = summary.table.columns
    rows = [
        [row.row.label, *(number(summary.difference(row, column.key), sign=True) for column in columns)]
        for row in comparable
    ]
    header = ["row", *(column.full_heading for column in columns)]
    return [Grid("Difference to the paper (ours minus the paper's), in points", header, rows, left=1)] if rows else []


def _average(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(statistics.fmean(known), 3) if known else ""


def each(values: Iterable[int], joint: str = ", ") -> str:
    """The distinct values as text, in ascending order: ``400, 1,500``."""
    return joint.join(f"{value:,}" for value in sorted(set(values)))


def cost(summary: TableSummary) -> Grid:
    """One line for each row: config, the paper's description, our backbone, and the cost of training and testing."""
    timed = any(row.row.seconds_per_image is not None for row in summary.rows)
    header = ["row", "config", *summary.table.details, "our backbone", "parameters", "steps", "batch", "lr"]
    header += ["s/step", "s/image", *(["paper s/image"] if timed else []), "peak MiB"]
    rows = []
    for row in summary.rows:
        records, theirs = row.records, row.row.seconds_per_image
        peaks = [record.peak_memory_mib for record in records if record.peak_memory_mib is not None]
        rows.append(
            [
                row.row.label,
                "" if row.row.literature else row.shared_from or f"{summary.name}/{row.id}",
                *(row.row.details.get(name, "") for name in summary.table.details),
                ", ".join(sorted({record.backbone for record in records})),
                each(record.parameters for record in records),
                each(record.train.steps for record in records),
                each(record.train.total_batch for record in records),
                ", ".join(f"{lr:g}" for lr in sorted({r.train.lr for r in records if r.train.lr is not None})),
                _average(record.train.seconds_per_step for record in records),
                _average(record.eval.seconds_per_image for record in records),
                *([] if not timed else ["" if theirs is None else f"{theirs:g} ({row.row.device})"]),
                f"{max(peaks):,.0f}" if peaks else "",
            ]
        )
    return Grid("Rows and their cost", header, rows, left=3 + len(summary.table.details))

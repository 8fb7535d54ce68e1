"""Print tables on the terminal: the rows that were run, with our number and the paper's in one cell."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpn_lightning.reporting import prose
from fpn_lightning.reporting.agreement import RULE, agreement
from fpn_lightning.reporting.grids import Grid, differences, gaps, results
from fpn_lightning.reporting.summary import TableSummary

AT_ONCE = 7
"""Maximum number of columns with numbers in one table: seven columns of ``12.3 ± 0.4`` fit into 80 characters."""


def show(summary: TableSummary, console: Console) -> None:
    """Print the results of the rows that were run. Other rows, costs and notes are only on the page."""
    # All lines are printed as Text, because rich would read [5×5] in a str as markup.
    console.print(Text(f"\n{prose.heading(summary)}", style="bold"))
    for line in prose.setting(summary):
        console.print(Text(line))
    for warning in summary.warnings:
        console.print(Text(f"Warning. {warning}", style="bold red"))
    if not summary.records:
        return
    missing = [row.row.label for row in summary.rows if not (row.records or row.mixed or row.row.literature)]
    for grid in [*results(summary), *differences(summary), *gaps(summary)]:
        _print(_joined(grid), missing, console)
    if found := agreement(summary):
        _print(found.signs, [], console)
        for line in (found.counts, RULE):
            console.print(Text(line))
    if missing:
        console.print(Text(f"Not run: {'; '.join(missing)}."))


def _joined(grid: Grid) -> Grid:
    """Put our number and, in brackets, the paper's number into one cell, so that all columns fit on a terminal."""
    lines = []
    for line in (grid.header, *grid.rows):
        cells: list[str] = []
        for heading, cell in zip(grid.header, line, strict=True):
            if heading == "ours" and cells:
                theirs = cells.pop()
                name = theirs.removesuffix(" paper")
                cell = name if line is grid.header else f"{cell} ({theirs})" if theirs else cell
            cells.append(cell.removesuffix(" ours") if line is grid.header else cell)
        lines.append(cells)
    title = f"{grid.title}: ours (the paper's)" if "ours" in grid.header else grid.title
    return Grid(title, lines[0], lines[1:], grid.left)


def _print(grid: Grid, missing: list[str], console: Console) -> None:
    """Print a grid without the rows ``missing``. A grid with many columns is printed as several tables."""
    columns = list(zip(grid.header, *(row for row in grid.rows if row[0] not in missing), strict=True))
    words, numbers = columns[: grid.left], columns[grid.left :]
    tables = -(-len(numbers) // AT_ONCE)
    for part in range(tables):
        table = Table(title=Text(grid.title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown = [*words, *numbers[part * len(numbers) // tables : (part + 1) * len(numbers) // tables]]
        for index, column in enumerate(shown):
            longest_word = max(len(word) for cell in column for word in cell.split())
            table.add_column(Text(column[0]), justify="left" if index < grid.left else "right", min_width=longest_word)
        for cells in zip(*(column[1:] for column in shown), strict=True):
            table.add_row(*map(Text, cells))
        console.print(table)

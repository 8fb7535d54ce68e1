"""Tables on the terminal: what was run, cut into blocks of columns where a line would be too long."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpn_lightning.reporting import prose
from fpn_lightning.reporting.grids import Grid, differences, gaps, results
from fpn_lightning.reporting.summary import TableSummary

_PADDING = 3  # a border and a space on either side of a cell


def show(summary: TableSummary, console: Console) -> None:
    """Print the results of the rows that were run; the files hold every row, what it cost and the notes."""
    # Text, not str: rich would take [5×5] for markup.
    console.print(Text(f"\n{prose.heading(summary)}", style="bold"))
    if not summary.records:
        console.print(Text(prose.scale(summary)[0]))
        _warn(summary, console)
        return
    data, training, _, _, *comparability = prose.scale(summary)
    for line in (data, training, *comparability):
        console.print(Text(line))
    _warn(summary, console)
    missing = [row.row.label for row in summary.rows if not (row.records or row.mixed or row.row.literature)]
    for grid in [*results(summary), *differences(summary), *gaps(summary)]:
        console.print(Text(f"\n{grid.title}", style="bold"))
        rows = [row for row in grid.rows if row[0] not in missing]
        for columns in split(grid, console.width):
            table = Table()
            for index in columns:
                justify = "left" if index < grid.left else "right"
                table.add_column(Text(grid.header[index]), justify=justify, no_wrap=index > 0)  # type: ignore[arg-type]
            for row in rows:
                table.add_row(*(Text(row[index]) for index in columns))
            console.print(table)
    if missing:
        console.print(Text(f"Not run: {'; '.join(missing)}."))


def _warn(summary: TableSummary, console: Console) -> None:
    for warning in summary.warnings:
        console.print(Text(f"Warning. {warning}", style="bold red"))


def split(grid: Grid, width: int) -> list[list[int]]:
    """Column numbers of the pieces of a grid that fit into ``width`` characters.

    Each piece begins with the row names. "ours" stays with the paper's column at their left.
    """
    widths = [
        max(len(line[index]) for line in (grid.header, *grid.rows)) + _PADDING for index in range(len(grid.header))
    ]
    units: list[list[int]] = []
    for index in range(1, len(grid.header)):
        if units and grid.header[index] == "ours":
            units[-1].append(index)
        else:
            units.append([index])
    pieces: list[list[int]] = [[0]]
    for unit in units:
        if len(pieces[-1]) > 1 and sum(widths[index] for index in (*pieces[-1], *unit)) >= width:
            pieces.append([0])
        pieces[-1] += unit
    return pieces

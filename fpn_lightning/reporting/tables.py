"""Tables as Markdown, CSV and LaTeX. The same records give the same bytes of text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from fpn_lightning.reporting import prose
from fpn_lightning.reporting.grids import Grid, cost, differences, gaps, results, status
from fpn_lightning.reporting.seeds import Sample
from fpn_lightning.reporting.summary import TableSummary
from fpn_lightning.text import plain

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$"},
        **{"±": r"$\pm$", "·": r"$\cdot$", "×": r"$\times$", "²": r"$^2$"},
        **{"–": "--", "§": r"\S{}", "“": "``", "”": "''"},
        "[": "{[}",  # after \\, LaTeX would read a bare [ as the start of an argument
        "]": "{]}",
        "*": "{*}",
    }
)

_CSV_HEADER = [
    *("preset", "table", "row", "label", "metric", "paper", "ours_mean", "ours_std", "num_seeds"),
    *("untrained_mean", "untrained_std", "paper_gap", "ours_gap", "difference", "status", "records_of"),
]


def markdown_grid(grid: Grid) -> str:
    """Format a grid as a Markdown table with aligned columns."""
    lines = [
        [plain(cell).replace("|", r"\|").replace("<", "&lt;") for cell in line] for line in (grid.header, *grid.rows)
    ]
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(grid.header))]
    lines.insert(1, ["-" * width if n < grid.left else "-" * (width - 1) + ":" for n, width in enumerate(widths)])
    form = "| " + " | ".join(f"{{:{'<' if n < grid.left else '>'}{width}}}" for n, width in enumerate(widths)) + " |"
    return "\n".join(form.format(*line) for line in lines)


def section(grid: Grid) -> list[str]:
    """A grid with its title as heading, in Markdown."""
    return [f"## {grid.title}", markdown_grid(grid)]


def warned(warnings: Iterable[str]) -> list[str]:
    """One Markdown paragraph for each warning."""
    return [f"> **Warning.** {warning}" for warning in warnings]


def folded(grid: Grid) -> list[str]:
    """A grid that is hidden until a reader clicks on its title, in Markdown."""
    return [f"<details><summary>{grid.title}</summary>", markdown_grid(grid), "</details>"]


def csv_text(summary: TableSummary) -> str:
    """The table as CSV, with one line for each row and metric. Numbers are in percent or points, with four decimals.

    ``ours_std`` is the sample standard deviation over ``num_seeds`` values. A gap is the number of a row
    minus the number of its reference row. A missing number is an empty cell.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for row in summary.rows:
        for column in summary.columns:
            ours, untrained = (found or Sample() for found in (row.ours(column.key), row.untrained(column.key)))
            numbers = [row.row.metrics.get(column.key), ours.mean, ours.std, untrained.mean, untrained.std]
            numbers += [of(row, column.key) for of in (summary.paper_gap, summary.ours_gap, summary.difference)]
            cells = ["" if value is None else f"{round(value, 4) + 0.0:.10g}" for value in numbers]
            cells.insert(3, str(len(ours.values)))
            state = "finished" if row.records else status(row)
            used = (row.shared_from or f"{summary.name}/{row.id}") if row.records else ""
            writer.writerow([summary.preset, summary.name, row.id, row.row.label, column.key, *cells, state, used])
    return out.getvalue()


def latex_escape(text: str) -> str:
    """Escape text so that LaTeX prints it."""
    return text.translate(_LATEX)


def latex(summary: TableSummary) -> str:
    r"""The table as LaTeX floats for ``\input``. LaTeX needs the package booktabs."""
    lines = [r"% needs \usepackage{booktabs}; made by python -m fpn_lightning.reporting; do not edit"]
    remarks = [*summary.warnings, *prose.setting(summary), *prose.provenance(summary), prose.CELLS]
    remarks += prose.notes(summary)
    for grid in [*results(summary), *differences(summary), *gaps(summary), cost(summary)]:
        lines += [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_escape(f'{prose.heading(summary)}. {grid.title}.')}}}",
            rf"\begin{{tabular}}{{{'l' * grid.left}{'r' * (len(grid.header) - grid.left)}}}",
            r"\toprule",
            _latex_row(grid.header),
            r"\midrule",
            *(_latex_row(row) for row in grid.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
        ]
    lines += [r"\begin{footnotesize}", *(latex_escape(remark) + r"\par" for remark in remarks), r"\end{footnotesize}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(latex_escape(cell) for cell in cells) + r" \\"

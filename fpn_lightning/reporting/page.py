"""The page of a table: what a reader wants first, then the numbers, what they say, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fpn_lightning.files import write_whole
from fpn_lightning.reporting import prose, variants
from fpn_lightning.reporting.figures import Shown
from fpn_lightning.reporting.grids import cost, differences, gaps, overview, results
from fpn_lightning.reporting.reading import Reading, read
from fpn_lightning.reporting.remarks import remarks_of
from fpn_lightning.reporting.summary import TableSummary
from fpn_lightning.reporting.tables import bullets, csv_text, embedded, latex, markdown_grid, section, warned
from fpn_lightning.runs.record import Record

PICTURES = "pictures"
"""Folder beside the page; ``<table>_<row>.png`` is shown where it is there (written by whoever has the model)."""

FOOTER = "Made by `python -m fpn_lightning.reporting` from the run records; not edited by hand."


def markdown(summary: TableSummary, records: list[Record], shown: Sequence[Shown], folder: Path) -> str:
    """The page of a table as Markdown, columns aligned for reading it raw.

    Args:
        summary: the table.
        records: all records of the preset; those of other trunks are compared with the table's.
        shown: the figures written beside the page.
        folder: of the page; ``pictures/`` lies in it and ``records/`` beside it, if there are any.

    Raises:
        InputError: remarks that do not say which records they are of.
    """
    parts = [f"# {prose.heading(summary)}"]
    parts += warned([*summary.warnings, *variants.warnings(summary, records)])
    parts += [*prose.scale(summary), prose.CELLS]
    for grid in [*overview(summary), *results(summary), *differences(summary)]:
        parts += section(grid)
    parts += ["## Figures"] if shown else []
    for figure in shown:
        parts += [embedded(figure.title, figure.path.name), figure.caption]
    if (reading := read(summary)) is not None:
        parts += _reading(reading)
    if (remarks := remarks_of(summary, folder.parent / "records")) is not None:
        parts += ["## Why, as far as we can say", remarks]
    for grid in gaps(summary):
        parts += section(grid)
    for other in variants.sections(summary, records):
        parts += [f"## {other.grid.title}", other.before, markdown_grid(other.grid)]
        parts += [bullets(other.after)] if other.after else []
    parts += _pictures(summary, folder)
    parts += section(cost(summary))
    if notes := prose.notes(summary):
        parts.append(bullets(notes))
    parts.append(FOOTER)
    return "\n\n".join(parts) + "\n"


def write(summary: TableSummary, records: list[Record], folder: Path) -> list[Path]:
    """Write a table's page, its figures, and the table as CSV and LaTeX, each whole or not at all.

    Args:
        summary: the table.
        records: all records of the preset.
        folder: gets ``table<n>.md``, ``.csv``, ``.tex`` and ``table<n>_<figure>.svg``.

    Returns:
        The paths of the files, the page first.
    """
    from fpn_lightning.reporting import plots  # here and not above: matplotlib takes a second to import

    shown = plots.draw(summary, folder)
    contents = {
        ".md": markdown(summary, records, shown, folder),
        ".csv": csv_text(summary),
        ".tex": latex(summary),
    }
    for suffix, text in contents.items():
        write_whole(folder / f"{summary.name}{suffix}", text)
    return [*(folder / f"{summary.name}{suffix}" for suffix in contents), *(figure.path for figure in shown)]


def _reading(reading: Reading) -> Iterable[str]:
    yield "## Where the ordering agrees with the paper's and where not"
    yield from reading.opening
    for name, items in (("Column by column:", reading.columns), ("Row by row:", reading.rows)):
        if items:
            yield from (name, bullets(items))


def _pictures(summary: TableSummary, folder: Path) -> Iterable[str]:
    """The pictures that are there, one a row of the table."""
    found = [(row, f"{PICTURES}/{summary.name}_{row.id}.png") for row in summary.rows]
    found = [(row, name) for row, name in found if (folder / name).is_file()]
    if found:
        yield "## What the rows look at"
        yield (
            "One validation image and the trained model of each row: its best proposals in the colour of their pyramid "
            "level, or its best detections by category; ground truth dashed; and the maps of the levels. Drawn by "
            "`python -m fpn_lightning.drawing`."
        )
    for row, name in found:
        yield f"{row.row.label}:"
        yield embedded(f"{row.row.label}: what it looks at", name)

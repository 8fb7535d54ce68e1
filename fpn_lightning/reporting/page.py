"""The page of a table: the setting, the numbers, whether they agree with the paper, figures, remarks, and the cost."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.paper import Table
from fpn_lightning.reporting import prose
from fpn_lightning.reporting.agreement import RULE, agreement
from fpn_lightning.reporting.costs import Costs, cost_grid, cost_notes, cost_warnings, costs_file, costs_of, measured_on
from fpn_lightning.reporting.figures import Shown
from fpn_lightning.reporting.grids import cost, differences, gaps, results
from fpn_lightning.reporting.summary import TableSummary, summarise
from fpn_lightning.reporting.tables import csv_text, folded, latex, markdown_grid, section, warned
from fpn_lightning.runs.record import Record

_REMARKS = re.compile(r"(?:About|Written of) the records of commits? ([0-9a-f]{7,40}(?:, [0-9a-f]{7,40})*)\.")


def summaries(
    preset: str, tables: Mapping[str, Table], records: list[Record], records_root: Path, also: Collection[str] = ()
) -> list[TableSummary]:
    """Summarise each table that gets a page for this preset.

    A table gets a page if its name is in ``also``, or if it has records of its own or measured costs. ``records`` are
    all records of the preset. Costs are read from ``records_root`` (``reports/records``).
    """
    present = {record.experiment.table for record in records}

    def wanted(name: str, table: Table) -> bool:
        own = name in present or (table.ours and any(other.startswith(f"{name}/") for other in present))
        return own or costs_file(name, preset, records_root).is_file()

    found = [summarise(name, preset, tables, records) for name in tables if name in also or wanted(name, tables[name])]
    return [summary for summary in found if summary.name in also or summary.run or summary.mixed or summary.unlisted]


def markdown(summary: TableSummary, costs: Costs | None, shown: Sequence[Shown], folder: Path) -> str:
    """The page of a table as Markdown, with pictures from ``folder/pictures`` and remarks from ``folder/../records``.

    Raises:
        InputError: the first line of the remarks does not name commits.
    """
    parts = [f"# {prose.heading(summary)}"]
    parts += warned([*summary.warnings, *(cost_warnings(summary, costs) if costs else ())])
    parts += prose.setting(summary)
    for grid in [*results(summary), *differences(summary)]:
        parts += section(grid)
    if found := agreement(summary):
        parts += [f"## {found.signs.title}", f"**{found.counts}**", markdown_grid(found.signs), RULE]
        parts += folded(found.differences)
    for grid in gaps(summary):
        parts += section(grid)
    parts += ["## Figures"] if shown else []
    for figure in shown:
        parts += [f"![{figure.title}]({figure.path.name})", figure.caption]
    parts += [*_remarks(summary, folder.parent / "records"), *_pictures(summary, folder)]
    if costs:
        parts += [*section(cost_grid(summary, costs)), measured_on(costs)]
    parts += section(cost(summary))
    if notes := [*prose.notes(summary), *(cost_notes(summary, costs) if costs else ())]:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += ["## How to read and check the numbers", prose.CELLS, *prose.provenance(summary), prose.FOOTER]
    return "\n\n".join(parts) + "\n"


def write(summary: TableSummary, folder: Path) -> list[Path]:
    """Write a table's page, CSV, LaTeX and figures into ``folder`` (``reports/<preset>``).

    Returns:
        The paths of ``<table>.md``, ``.csv``, ``.tex`` and each ``<table>_<figure>.svg``.

    Raises:
        InputError: the file with the remarks or the file with the costs is malformed.
    """
    from fpn_lightning.reporting import plots  # imported here because matplotlib takes a second to load

    costs = costs_of(summary, folder.parent / "records")
    shown = plots.draw(summary, costs, folder)
    contents = {".md": markdown(summary, costs, shown, folder), ".csv": csv_text(summary), ".tex": latex(summary)}
    for suffix, text in contents.items():
        write_whole(folder / f"{summary.name}{suffix}", text)
    return [*(folder / f"{summary.name}{suffix}" for suffix in contents), *(figure.path for figure in shown)]


def _remarks(summary: TableSummary, records_root: Path) -> Iterator[str]:
    """The remarks that a person wrote in ``<preset>/<table>/remarks.md``.

    The first line of the file names the commits of the records that the remarks describe. If a record has another
    commit, the remarks are left out, because they may be wrong about this record.
    """
    path = records_root / summary.preset / summary.name / "remarks.md"
    if not path.is_file():
        return
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    if (match := _REMARKS.fullmatch(first)) is None:
        raise InputError(f"{path}: the first line has to be: About the records of commit <commit>.")
    if not summary.mixed and {record.commit for record in summary.records} <= set(match[1].split(", ")):
        yield "## Remarks"
        yield text.strip()


def _pictures(summary: TableSummary, folder: Path) -> Iterator[str]:
    """The pictures of the table's rows. Their files are in the folder ``pictures/`` beside the page."""
    named = ((row, f"pictures/{summary.name}_{row.id}.png") for row in summary.rows)
    found = [(row, name) for row, name in named if (folder / name).is_file()]
    if found:
        yield "## Pictures"
        yield (
            "Each picture shows a validation image with the predictions of the row's trained model, and the feature "
            "maps of this model. The colour of a proposal shows its pyramid level; the colour of a detection shows its "
            "category. The boxes of the ground truth are dashed."
        )
    for row, name in found:
        yield f"{row.row.label}:"
        yield f"![{row.row.label}: predictions and feature maps]({name})"

"""Draw the figures of a table as SVG; the same numbers give the same bytes.

Importing matplotlib takes a second. Therefore other modules import this module inside the function that draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fpn_lightning.files import whole_file
from fpn_lightning.reporting.costs import Costs
from fpn_lightning.reporting.figures import Cloud, Gaps, Panel, Shown, by_cost, by_gap, by_proposals, by_size, by_step
from fpn_lightning.reporting.summary import TableSummary

_STYLES = (
    ("#E69F00", "s"),
    ("#56B4E9", "v"),
    ("#000000", "o"),
    ("#D55E00", "D"),
    ("#009E73", "^"),
    ("#CC79A7", "P"),
    ("#0072B2", "X"),
    ("#999999", "*"),
)
"""Colours and markers of rows. The colours are Okabe and Ito's palette for colour-blind readers, with grey in place of
yellow, because yellow is too pale on white. The markers distinguish the rows when colours cannot be seen."""

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",  # a transparent figure would be unreadable on GitHub's dark pages
    "svg.fonttype": "none",  # keeps the text of a figure searchable and its file small
    "svg.hashsalt": "fpn_lightning",  # gives the SVG elements the same ids whenever the figure is drawn
}


@dataclass(frozen=True)
class Style:
    """Label, colour and marker of a row, the same in every figure of a table."""

    label: str
    colour: str
    marker: str


def row_styles(labels: dict[str, str]) -> dict[str, Style]:
    """Assign styles to row ids in order, so that row (a) looks the same in all tables. Row 9 looks like row 1."""
    return {row: Style(label, *_STYLES[index % len(_STYLES)]) for index, (row, label) in enumerate(labels.items())}


@contextmanager
def _svg_figure(path: Path, height: float) -> Iterator[Figure]:
    """Open an empty figure, ``height`` inches high. The figure is saved to ``path`` when the ``with`` block ends."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.0, height), layout="constrained")  # a page on GitHub is about nine inches wide
        yield figure
        with whole_file(path) as temporary:
            # The date and matplotlib's version are left out, so that the same numbers give the same bytes.
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def draw(summary: TableSummary, costs: Costs | None, folder: Path) -> list[Shown]:
    """Write the figures of a table as SVG into ``folder``. If fewer than two rows were run, write nothing."""
    if len(summary.run) < 2:
        return []
    styles = row_styles({row.id: row.row.label for row in summary.rows if not row.row.literature})
    spread = "± one sample standard deviation over seeds."
    shown = []

    def add(name: str, title: str, caption: str) -> Path:
        shown.append(Shown(folder / f"{summary.name}_{name}.svg", title, caption))
        return shown[-1].path

    if panels := by_size(summary):
        caption = "Metrics by object size, in %. Each panel has its own scale. Bars are in the order of the legend. "
        caption += f"Error bars: {spread}"
        draw_sizes(add("sizes", "By object size", caption), panels, styles)
    for recall in by_proposals(summary):
        title = "Recall against the number of proposals"
        caption = f"{title} per image. The band around a line is {spread}"
        draw_lines(add("proposals", title, caption), [recall], "proposals an image", styles, scale="log")
    if panels := by_step(summary):
        caption = f"Metrics at each validation during training, in %. The band around a line is {spread}"
        draw_lines(add("curves", "Learning curves", caption), panels, "steps", styles)
    if gaps := by_gap(summary):
        title = "Gaps to the reference row"
        caption = f"{title}, in points. Open marks show the paper's gaps, filled marks our gaps. Error bars: {spread}"
        draw_gaps(add("gaps", title, caption), gaps, styles)
    if costs and (clouds := by_cost(summary, costs)):
        title = f"{summary.table.main.heading} against time and memory"
        caption = f"{title}. Marks higher up have a better metric; marks further left cost less. Error bars: {spread}"
        draw_clouds(add("cost", title, caption), clouds, f"{summary.table.main.heading} (%)", styles)
    return shown


def draw_sizes(path: Path, panels: list[Panel], styles: dict[str, Style]) -> None:
    """Draw panels side by side: object sizes along x, one bar for each row."""
    with _svg_figure(path, 3.4 if len(panels) < 4 else 6.2) as figure:
        columns = len(panels) if len(panels) < 4 else (len(panels) + 1) // 2
        for axes, panel in zip(_axes(figure, len(panels), columns).flat, panels, strict=False):
            axes.set_title(panel.title)
            axes.set_xticks(range(len(panel.places)), panel.places)
            axes.tick_params(axis="x", length=0)
            axes.grid(visible=False, axis="x")
            width = 0.84 / len(panel.rows)
            for index, (row, points) in enumerate(panel.rows.items()):
                shift = (index - (len(panel.rows) - 1) / 2) * width
                for place, point in enumerate(points):
                    if point is None:
                        continue
                    mean, std = point
                    axes.bar(place + shift, mean, 0.9 * width, color=styles[row].colour)
                    if std is not None:
                        axes.errorbar(place + shift, mean, yerr=std, color="#555555", linewidth=1, capsize=1.5)
        _legend(figure, styles, {row for panel in panels for row in panel.rows}, "s", "")


def draw_lines(path: Path, panels: list[Panel], x_label: str, styles: dict[str, Style], scale: str = "linear") -> None:
    """Draw panels side by side: one line for each row, with a band of ± one standard deviation."""
    across = min(3, len(panels))
    with _svg_figure(path, 4.2 if len(panels) < 4 else 6.2) as figure:
        for axes, panel in zip(_axes(figure, len(panels), across).flat, panels, strict=False):
            axes.set_xscale(scale)
            numbers = [int(place) for place in panel.places]
            if scale == "log":
                axes.set_xticks(numbers, panel.places)
                axes.minorticks_off()
            axes.set_xlabel(x_label)
            axes.set_ylabel(f"{panel.title} (%)")
            for row, points in panel.rows.items():
                places = [number for number, point in zip(numbers, points, strict=True) if point]
                means, spreads = zip(*((mean, std or 0) for mean, std in filter(None, points)), strict=True)
                style = styles[row]
                axes.plot(places, means, color=style.colour, marker=style.marker, markersize=5, linewidth=1.5)
                low, high = np.subtract(means, spreads), np.add(means, spreads)
                axes.fill_between(places, low, high, color=style.colour, alpha=0.2, linewidth=0)
            axes.set_ylim(bottom=0)
        _legend(figure, styles, {row for panel in panels for row in panel.rows}, None, "-")


def draw_gaps(path: Path, columns: list[Gaps], styles: dict[str, Style]) -> None:
    """Draw one panel of gaps for each column, all with one scale. Open marks are the paper's, filled marks are ours."""
    rows = [row for row in styles if any(row in gaps.ours or row in gaps.paper for gaps in columns)]
    across = min(4, len(columns))
    with _svg_figure(path, 1.2 + -(-len(columns) // across) * (0.5 + 0.24 * len(rows))) as figure:
        grid = _axes(figure, len(columns), across, share=True)
        for axes, gaps in zip(grid.flat, columns, strict=False):
            axes.set_title(gaps.title)
            axes.axvline(0, color="#000000", linewidth=1)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0, labelleft=axes in grid[:, 0])
            axes.tick_params(axis="x", labelbottom=True)
            for place, row in enumerate(rows):
                style = styles[row]
                look = {"color": style.colour, "marker": style.marker, "markersize": 5, "linewidth": 1}
                for found, offset, face in ((gaps.paper, 0.17, "white"), (gaps.ours, -0.17, style.colour)):
                    if row in found:
                        mean, std = found[row]
                        axes.errorbar(mean, place - offset, xerr=std, markerfacecolor=face, **look)
        grid[0, 0].set_yticks(range(len(rows)), [styles[row].label for row in rows])
        grid[0, 0].set_ylim(len(rows) - 0.5, -0.5)
        figure.supxlabel("points", fontsize="medium")
        marks = [Line2D([], [], color="#555555", marker="o", ls="", markerfacecolor=face) for face in ("white", None)]
        figure.legend(marks, ["paper", "ours"], loc="outside upper right", ncols=2)


def draw_clouds(path: Path, clouds: list[Cloud], y_label: str, styles: dict[str, Style]) -> None:
    """Draw scatter plots side by side, one mark for each row. Both axes start at zero; all plots share the y axis."""
    with _svg_figure(path, 3.6) as figure:
        grid = figure.subplots(1, len(clouds), sharey=True, squeeze=False)
        for axes, cloud in zip(grid.flat, clouds, strict=True):
            axes.set_xlabel(cloud.x_label)
            for row, (cost, (mean, std)) in cloud.rows.items():
                style = styles[row]
                axes.errorbar(cost, mean, yerr=std, color=style.colour, marker=style.marker, markersize=7)
            axes.margins(0.08)  # keep marks away from the edges
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        grid[0, 0].set_ylabel(y_label)
        _legend(figure, styles, {row for cloud in clouds for row in cloud.rows}, None, "")


def _axes(figure: Figure, count: int, across: int, share: bool = False) -> Any:
    """Axes for ``count`` panels, ``across`` of them side by side. With ``share``, all panels have a common scale."""
    grid = figure.subplots(-(-count // across), across, sharex=share, sharey=share, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return grid


def _legend(
    figure: Figure, styles: dict[str, Style], rows: set[str], marker: str | None, line: Literal["", "-"]
) -> None:
    """Draw a legend of ``rows`` in the table's order, outside the axes, so that no data is hidden.

    ``marker``, if given, replaces the markers of all rows. In a line plot, the legend is beside the axes; in other
    plots, it is below the axes.
    """
    named = [style for row, style in styles.items() if row in rows]
    handles = [Line2D([], [], color=style.colour, marker=marker or style.marker, linestyle=line) for style in named]
    labels = [style.label for style in named]
    if line:
        figure.legend(handles, labels, loc="outside right upper")
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(named)))

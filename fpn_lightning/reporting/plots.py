"""How figures are drawn and saved: SVG that is the same, byte for byte, for the same numbers.

Importing this module imports matplotlib, which takes a second; callers import it where they draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fpn_lightning.files import whole_file

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
"""Colours of Okabe and Ito, which colour-blind readers can tell apart (yellow left out, too pale on white), and a
marker for each, so that no figure depends on colour alone."""

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
    "figure.facecolor": "white",  # GitHub's dark page would show through
    "svg.fonttype": "none",  # text stays text: it can be searched, and no glyph outlines fill the file
    "svg.hashsalt": "fpn_lightning",  # ids inside the file do not change from run to run
}


@dataclass(frozen=True)
class Style:
    """Colour and marker of a row, the same in every figure."""

    colour: str
    marker: str


def row_styles(rows: Iterable[str]) -> dict[str, Style]:
    """Give each row of a table its style, by position; a table has at most eight rows of ours."""
    return {row: Style(*_STYLES[index % len(_STYLES)]) for index, row in enumerate(rows)}


@contextmanager
def svg_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure to draw on; it is written as SVG when the block ends, whole or not at all.

    Args:
        path: the file, ``.svg``.
        width: in inches; a page on GitHub is about nine wide.
        height: in inches.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with whole_file(path) as temporary:
            # Neither date nor version: the same numbers give the same bytes.
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})

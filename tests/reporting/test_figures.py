"""Figures show the numbers that they should, each in its row's colour, and are written as the same bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.figures import Cloud, Gaps, Panel, by_gap, by_proposals, by_size, by_step
from fpn_lightning.reporting.plots import draw, draw_clouds, draw_gaps, draw_lines, draw_sizes, row_styles
from fpn_lightning.reporting.summary import summarise
from tests.reporting.builders import rows, svg_texts

STYLES = row_styles({"a_conv4": "(a) one", "b_conv5": "(b) two"})
ORANGE, BLUE = "#e69f00", "#56b4e9"  # of the first two rows
SIZED = {
    "c_fpn": {"AR1k": (0.6, 0.6), "AR1k_s": (0.5, 0.54), "AR1k_m": (0.6, 0.6), "AR1k_l": (0.7, 0.7)},
    "d_bottom_up": {"AR1k": (0.5, 0.52), "AR1k_s": (0.4, 0.4), "AR1k_m": (0.6, 0.6), "AR1k_l": (0.7, 0.7)},
}


def table1(records):
    return summarise("table1", "mini", paper_tables(), records)


def near(*point):
    return tuple(pytest.approx(number) for number in point)


def coloured(path: Path, tag: str) -> Counter:
    """How many elements of that kind are filled with each colour."""
    elements = ElementTree.parse(path).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    parts = [part.strip() for element in elements for part in element.get("style", "").split(";")]
    return Counter(part.split(":")[1].strip() for part in parts if part.startswith("fill:"))


def test_by_size_has_our_numbers_and_the_papers():
    ours, paper = by_size(table1(rows(**SIZED)))
    assert (ours.title, paper.title) == ("AR1k, ours", "AR1k, paper")
    assert ours.places == paper.places == ["small", "medium", "large"]
    assert ours.rows["c_fpn"][0] == near(52, 8**0.5)  # 50 and 54: mean 52, spread sqrt(8)
    assert paper.rows["d_bottom_up"] == [(30.5, None), (59.9, None), (68.0, None)]
    assert set(ours.rows) == {"c_fpn", "d_bottom_up"}


def test_by_proposals_orders_the_limits_and_leaves_gaps():
    (panel,) = by_proposals(
        table1(rows(c_fpn={"AR1k": (0.6,), "AR10": (0.2,), "AR100": (0.5,)}, d_bottom_up={"AR10": (0.1,)}))
    )
    assert panel.places == ["10", "100", "1000"]
    assert panel.rows["c_fpn"] == [near(20, None), near(50, None), near(60, None)]
    assert panel.rows["d_bottom_up"] == [near(10, None), None, None]
    assert by_proposals(table1(rows(c_fpn={"AR100": (0.5,)}))) == []  # a line needs two numbers


def test_by_step_has_every_validation_and_leaves_gaps(tmp_path: Path):
    def during(*values):
        return {"curves": {"val/AR1k": [(100 * step, value) for step, value in enumerate(values)]}}

    first, second, other = rows(c_fpn={"AR1k": (0.6, 0.6)}, d_bottom_up={"AR1k": (0.5,)})
    records = [replace(first, **during(0.1, 0.5, 0.6)), replace(second, **during(0.3, 0.5, 0.6))]
    (panel,) = by_step(table1([*records, replace(other, **during(0.2, 0.5))]))
    assert (panel.title, panel.places) == ("AR1k", ["0", "100", "200"])
    assert panel.rows["c_fpn"] == [near(20, 200**0.5), near(50, 0), near(60, 0)]
    assert panel.rows["d_bottom_up"] == [near(20, None), near(50, None), None]
    assert by_step(table1([replace(record, **during(0.1, 0.2)) for record in records])) == []  # two validations
    shown = draw(table1([*records, other]), None, tmp_path)
    assert "table1_curves.svg" in {figure.path.name for figure in shown}
    assert {"steps", "AR1k (%)"} <= svg_texts(tmp_path / "table1_curves.svg")


def test_by_gap_has_the_papers_gap_beside_ours():
    gaps = {gap.title: gap for gap in by_gap(table1(rows(**SIZED)))}
    assert list(gaps) == ["AR1k", "AR1k_s", "AR1k_m", "AR1k_l"]  # AR100 was not recorded
    # The paper's 49.5 - 56.3; ours 50 - 60 and 52 - 60.
    assert gaps["AR1k"].paper == {"d_bottom_up": near(-6.8, None)}
    assert gaps["AR1k"].ours == {"d_bottom_up": near(-9, 2**0.5)}


def test_figures_are_drawn_where_two_rows_were_run_and_repeat_to_the_byte(tmp_path: Path):
    records = rows(**SIZED)
    shown = draw(table1(records), None, tmp_path)
    assert [figure.path.name for figure in shown] == ["table1_sizes.svg", "table1_gaps.svg"]  # one number of proposals
    assert all(figure.caption for figure in shown)
    assert draw(table1(records[:2]), None, tmp_path / "one") == []
    assert not (tmp_path / "one").exists()
    records = rows(**{row: {**metrics, "AR10": (0.1, 0.2)} for row, metrics in SIZED.items()})
    first = [figure.path.read_bytes() for figure in draw(table1(records), None, tmp_path / "a")]
    again = [figure.path.read_bytes() for figure in draw(table1(records[::-1]), None, tmp_path / "b")]
    assert len(first) == 3
    assert again == first


def test_a_bar_for_every_point(tmp_path: Path):
    by_row = {"a_conv4": [(10, 1), (20, None)], "b_conv5": [None, (30, None)]}
    draw_sizes(tmp_path / "f.svg", [Panel("AR", ["small", "large"], by_row)], STYLES)
    bars = coloured(tmp_path / "f.svg", "path")
    assert (bars[ORANGE], bars[BLUE]) == (2, 1)
    assert {"AR", "small", "large", "(a) one", "(b) two"} <= svg_texts(tmp_path / "f.svg")


def test_a_mark_for_every_number_of_proposals_and_one_in_the_legend(tmp_path: Path):
    by_row = {"a_conv4": [(10, 1), (20, 1), (30, 1)], "b_conv5": [(5, None), None, (9, None)]}
    draw_lines(
        tmp_path / "f.svg", [Panel("recall", ["10", "100", "1000"], by_row)], "proposals an image", STYLES, "log"
    )
    marks = coloured(tmp_path / "f.svg", "use")
    # A band is one more element in the row's colour, of no height where there is no spread.
    assert (marks[ORANGE], marks[BLUE]) == (3 + 1 + 1, 2 + 1 + 1)
    assert "proposals an image" in svg_texts(tmp_path / "f.svg")


def test_gaps_have_open_marks_for_the_paper_and_filled_ones_for_ours(tmp_path: Path):
    columns = [
        Gaps("AR100", paper={"a_conv4": (-8, None)}, ours={"a_conv4": (-6, 1), "b_conv5": (-2, None)}),
        Gaps("AR10", paper={}, ours={"a_conv4": (-1, None)}),
    ]
    draw_gaps(tmp_path / "f.svg", columns, STYLES)
    marks = coloured(tmp_path / "f.svg", "use")
    assert (marks[ORANGE], marks[BLUE], marks["#ffffff"]) == (2, 1, 1 + 1)  # the open one, and that of the legend
    assert {"AR100", "AR10", "paper", "ours"} <= svg_texts(tmp_path / "f.svg")


def test_clouds_have_one_mark_a_row_in_every_panel(tmp_path: Path):
    both = {"a_conv4": (0.1, (30, 2)), "b_conv5": (0.2, (40, None))}
    clouds = [Cloud("seconds", both), Cloud("MiB", {"a_conv4": (100, (30, 2))})]
    draw_clouds(tmp_path / "f.svg", clouds, "AR100 (%)", STYLES)
    marks = coloured(tmp_path / "f.svg", "use")
    assert (marks[ORANGE], marks[BLUE]) == (2 + 1, 1 + 1)
    assert {"seconds", "MiB", "AR100 (%)", "(a) one", "(b) two"} <= svg_texts(tmp_path / "f.svg")


def test_eight_rows_differ_in_colour_and_in_marker():
    styles = row_styles({str(index): str(index) for index in range(8)}).values()
    assert len({style.colour for style in styles}) == len({style.marker for style in styles}) == 8

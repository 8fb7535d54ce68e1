"""Figures show the numbers that they should, each in its row's colour, and are written as the same bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.figures import Cloud, Gaps, Panel, Point, by_gap, by_proposals, by_size
from fpn_lightning.reporting.plots import draw, draw_clouds, draw_gaps, draw_proposals, draw_sizes, row_styles
from fpn_lightning.reporting.summary import summarise

STYLES = row_styles({"a_conv4": "(a) one", "b_conv5": "(b) two"})
ORANGE, BLUE = "#e69f00", "#56b4e9"  # of the first two rows
SIZED = {
    "c_fpn": {"AR1k": (0.6, 0.6), "AR1k_s": (0.5, 0.54), "AR1k_m": (0.6, 0.6), "AR1k_l": (0.7, 0.7)},
    "d_bottom_up": {"AR1k": (0.5, 0.52), "AR1k_s": (0.4, 0.4), "AR1k_m": (0.6, 0.6), "AR1k_l": (0.7, 0.7)},
}


def table1(records):
    return summarise("table1", "mini", paper_tables(), records)


def svg(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def coloured(path: Path, tag: str) -> Counter:
    """How many elements of that kind are filled with each colour."""
    styles = [element.get("style", "") for element in svg(path).iter(f"{{http://www.w3.org/2000/svg}}{tag}")]
    fills = [part.split(":")[1].strip() for style in styles for part in style.split(";") if part.startswith("fill:")]
    return Counter(fills)


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in svg(path).iter("{http://www.w3.org/2000/svg}text")]


def test_by_size_has_our_numbers_and_the_papers(make_rows):
    ours, paper = by_size(table1(make_rows(**SIZED)))
    assert (ours.title, paper.title) == ("AR1k, ours", "AR1k, paper")
    assert ours.places == paper.places == ["small", "medium", "large"]
    # 50 and 54: mean 52, spread sqrt(8).
    small = ours.rows["c_fpn"][0]
    assert (small.mean, small.std) == (pytest.approx(52), pytest.approx(8**0.5))
    assert [point.mean for point in paper.rows["d_bottom_up"]] == [30.5, 59.9, 68.0]
    assert set(ours.rows) == {"c_fpn", "d_bottom_up"}


def test_by_proposals_orders_the_limits_and_leaves_gaps(make_rows):
    rows = {"c_fpn": {"AR1k": (0.6,), "AR10": (0.2,), "AR100": (0.5,)}, "d_bottom_up": {"AR10": (0.1,)}}
    panel = by_proposals(table1(make_rows(**rows)))
    assert panel.places == ["10", "100", "1000"]
    assert panel.rows["c_fpn"] == [Point(pytest.approx(20)), Point(pytest.approx(50)), Point(pytest.approx(60))]
    assert panel.rows["d_bottom_up"] == [Point(pytest.approx(10)), None, None]
    assert by_proposals(table1(make_rows(c_fpn={"AR100": (0.5,)}))) is None  # a line needs two numbers


def test_by_gap_has_the_papers_gap_beside_ours(make_rows):
    gaps = {gap.title: gap for gap in by_gap(table1(make_rows(**SIZED)))}
    assert list(gaps) == ["AR1k", "AR1k_s", "AR1k_m", "AR1k_l"]  # AR100 was not recorded
    # The paper's 49.5 - 56.3; ours 50 - 60 and 52 - 60.
    assert gaps["AR1k"].paper == {"d_bottom_up": Point(pytest.approx(-6.8))}
    assert gaps["AR1k"].ours == {"d_bottom_up": Point(pytest.approx(-9), pytest.approx(2**0.5))}


def test_figures_are_drawn_where_two_rows_were_run(make_rows, tmp_path: Path):
    records = make_rows(**SIZED)
    shown = draw(table1(records), None, tmp_path)
    assert [figure.path.name for figure in shown] == ["table1_sizes.svg", "table1_gaps.svg"]  # one number of proposals
    assert all(figure.path.is_file() and figure.caption for figure in shown)
    assert draw(table1(records[:2]), None, tmp_path / "one") == []
    assert not (tmp_path / "one").exists()


def test_the_same_numbers_give_the_same_bytes(make_rows, tmp_path: Path):
    rows = {row: {**metrics, "AR10": (0.1, 0.2)} for row, metrics in SIZED.items()}
    first = [figure.path.read_bytes() for figure in draw(table1(make_rows(**rows)), None, tmp_path / "a")]
    again = [figure.path.read_bytes() for figure in draw(table1(make_rows(**rows)[::-1]), None, tmp_path / "b")]
    assert len(first) == 3
    assert again == first


def test_a_bar_for_every_point(tmp_path: Path):
    panel = Panel("AR", ["small", "large"], {"a_conv4": [Point(10, 1), Point(20)], "b_conv5": [None, Point(30)]})
    draw_sizes(tmp_path / "f.svg", [panel], STYLES)
    bars = coloured(tmp_path / "f.svg", "path")
    assert (bars[ORANGE], bars[BLUE]) == (2, 1)
    assert {"AR", "small", "large", "(a) one", "(b) two"} <= set(texts(tmp_path / "f.svg"))


def test_a_mark_for_every_number_of_proposals_and_one_in_the_legend(tmp_path: Path):
    rows = {"a_conv4": [Point(10, 1), Point(20, 1), Point(30, 1)], "b_conv5": [Point(5), None, Point(9)]}
    draw_proposals(tmp_path / "f.svg", Panel("Recall", ["10", "100", "1000"], rows), STYLES)
    marks = coloured(tmp_path / "f.svg", "use")
    # A band is one more element in the row's colour, of no height where there is no spread.
    assert (marks[ORANGE], marks[BLUE]) == (3 + 1 + 1, 2 + 1 + 1)
    assert "proposals an image" in texts(tmp_path / "f.svg")


def test_gaps_have_open_marks_for_the_paper_and_filled_ones_for_ours(tmp_path: Path):
    columns = [
        Gaps("AR100", paper={"a_conv4": Point(-8)}, ours={"a_conv4": Point(-6, 1), "b_conv5": Point(-2)}),
        Gaps("AR10", paper={}, ours={"a_conv4": Point(-1)}),
    ]
    draw_gaps(tmp_path / "f.svg", columns, STYLES)
    marks = coloured(tmp_path / "f.svg", "use")
    assert (marks[ORANGE], marks[BLUE], marks["#ffffff"]) == (2, 1, 1 + 1)  # the open one, and that of the legend
    assert {"AR100", "AR10", "paper", "ours"} <= set(texts(tmp_path / "f.svg"))


def test_clouds_have_one_mark_a_row_in_every_panel(tmp_path: Path):
    clouds = [
        Cloud("seconds", {"a_conv4": (0.1, Point(30, 2)), "b_conv5": (0.2, Point(40))}),
        Cloud("MiB", {"a_conv4": (100, Point(30, 2))}),
    ]
    draw_clouds(tmp_path / "f.svg", clouds, "AR100 (%)", STYLES)
    marks = coloured(tmp_path / "f.svg", "use")
    assert (marks[ORANGE], marks[BLUE]) == (2 + 1, 1 + 1)
    assert {"seconds", "MiB", "AR100 (%)", "(a) one", "(b) two"} <= set(texts(tmp_path / "f.svg"))


def test_eight_rows_differ_in_colour_and_in_marker():
    styles = row_styles({str(index): str(index) for index in range(8)}).values()
    assert len({style.colour for style in styles}) == len({style.marker for style in styles}) == 8

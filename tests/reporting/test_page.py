"""The page of a table: its order, and that it shows what lies beside it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.page import write
from fpn_lightning.reporting.summary import summarise
from fpn_lightning.runs.record import Record

SIZED = {
    "c_fpn": {
        "AR10": (0.3, 0.3),
        "AR100": (0.5, 0.52),
        "AR1k_s": (0.5, 0.5),
        "AR1k_m": (0.6, 0.6),
        "AR1k_l": (0.7, 0.7),
    },
    "d_bottom_up": {
        "AR10": (0.2, 0.2),
        "AR100": (0.4, 0.43),
        "AR1k_s": (0.4, 0.4),
        "AR1k_m": (0.6, 0.6),
        "AR1k_l": (0.7, 0.7),
    },
}


@pytest.fixture
def records(make_rows) -> list[Record]:
    return make_rows(**SIZED) + make_rows("deep_c2", **SIZED)


def page(records: list[Record], folder: Path) -> str:
    return write(summarise("table1", "mini", paper_tables(), records), records, folder)[0].read_text(encoding="utf-8")


def test_what_a_reader_wants_comes_first(records, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/table1_c_fpn.png").touch()
    assert re.findall("^## (.*)", page(records, tmp_path), flags=re.MULTILINE) == [
        "What each design costs and brings",
        "Results",
        "Figures",
        "Where the ordering agrees with the paper's and where not",
        "Gap to “(c) FPN”, in points",
        "Shallow against deep C2",
        "What the rows look at",
        "Rows and their cost",
    ]


def test_pictures_are_shown_where_they_are(records, tmp_path: Path):
    assert "look at" not in page(records, tmp_path)
    (tmp_path / "pictures").mkdir()
    for row in ("d_bottom_up", "c_fpn", "no_such_row"):
        (tmp_path / f"pictures/table1_{row}.png").touch()
    text = page(records, tmp_path)
    addresses = re.findall(r"!\[.*\]\((pictures/.*)\)", text)
    assert addresses == ["pictures/table1_c_fpn.png", "pictures/table1_d_bottom_up.png"]
    assert "(d) bottom-up pyramid:\n\n![" in text


def test_every_picture_of_a_page_is_beside_it(records, tmp_path: Path):
    paths = write(summarise("table1", "mini", paper_tables(), records), records, tmp_path)
    addresses = re.findall(r"!\[.*\]\((.*)\)", paths[0].read_text(encoding="utf-8"))
    assert addresses == ["table1_sizes.svg", "table1_proposals.svg", "table1_gaps.svg"]
    assert [path.name for path in paths[3:]] == addresses
    assert all(path.is_file() for path in paths)


def test_the_first_table_holds_cost_and_gain(records, tmp_path: Path):
    text = page(records, tmp_path)
    first = text.split("## What each design costs and brings", 1)[1].split("\n## ", 1)[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines() if line.startswith("|")
    ]
    assert lines[0] == ["row", "seeds", "parameters", "s/step", "s/image", "AR10", "AR100", "AR100 gap to “(c) FPN”"]
    # 40 - 50 and 43 - 52: -9.5 ± sqrt(0.5).
    assert lines[3] == [
        "(d) bottom-up pyramid",
        "2",
        "1,234,567",
        "0.200",
        "0.050",
        "20.0 ± 0.0",
        "41.5 ± 2.1",
        "-9.5 ± 0.7",
    ]
    assert len(lines) == 4  # rows that were not run are in the tables below


def test_the_first_table_names_metrics_as_the_paper_does(make_rows, tmp_path: Path):
    metrics = {"segm_AR1k": (0.4,), "segm_AR1k_s": (0.3,)}
    records = make_rows("table6", mlp5=metrics, mlp7=metrics)
    summary = summarise("table6", "mini", paper_tables(), records)
    lines = write(summary, records, tmp_path)[0].read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if line.startswith("| row"))
    assert [cell.strip() for cell in header.strip("|").split("|")][5:7] == ["AR", "ARs"]


def test_a_gap_table_has_no_empty_lines(records, tmp_path: Path):
    gaps = page(records, tmp_path).split("## Gap", 1)[1].split("\n## ", 1)[0]
    assert "(e) top-down pyramid, w/o lateral" in gaps  # not run, but the paper has a gap
    assert "extra" not in gaps


def test_a_single_row_has_neither_figures_nor_a_reading(make_rows, tmp_path: Path):
    assert re.findall("^## (.*)", page(make_rows(c_fpn=SIZED["c_fpn"]), tmp_path), flags=re.MULTILINE) == [
        "Results",
        "Rows and their cost",
    ]
    assert not list(tmp_path.glob("*.svg"))

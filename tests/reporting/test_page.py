"""The page of a table: the order of its sections, and the pictures and figures beside it."""

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
    return make_rows(**SIZED)


def page(records: list[Record], folder: Path) -> str:
    return write(summarise("table1", "mini", paper_tables(), records), folder)[0].read_text(encoding="utf-8")


def test_what_a_reader_wants_comes_first(records, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/table1_c_fpn.png").touch()
    assert re.findall("^## (.*)", page(records, tmp_path), flags=re.MULTILINE) == [
        "Results",
        "Agreement with the paper",
        "Gap to “(c) FPN”, in points",
        "Figures",
        "Pictures",
        "Rows and their cost",
        "How to read and check the numbers",
    ]


def test_the_agreement_is_one_line_one_grid_and_a_grid_on_demand(records, tmp_path: Path):
    block = page(records, tmp_path).split("## Agreement with the paper\n", 1)[1].split("\n## ", 1)[0]
    assert block.lstrip().startswith("**3 of 5 pairs as in the paper, 0 reversed, 2 within noise; 1 not comparable. ")
    assert "is more than noise if its mean over the seeds is larger than 2 times its sample standard deviation" in block
    shown, hidden = block.split(
        "<details><summary>First row minus second row in points: ours (the paper's)</summary>\n\n"
    )
    (line,) = re.findall(r"^\| \(c\) \| \(d\) .*$", shown, flags=re.MULTILINE)
    assert [cell.strip() for cell in line.split("|")[3:-1]] == ["✓", "✓", "n/a", "✓", "·", "·"]
    assert "+9.5 ± 0.7 (+6.6)" in hidden
    assert hidden.rstrip().endswith("|\n\n</details>")


def test_pictures_are_shown_where_they_are(records, tmp_path: Path):
    assert "## Pictures" not in page(records, tmp_path)
    (tmp_path / "pictures").mkdir()
    for row in ("d_bottom_up", "c_fpn", "no_such_row"):
        (tmp_path / f"pictures/table1_{row}.png").touch()
    text = page(records, tmp_path)
    addresses = re.findall(r"!\[.*\]\((pictures/.*)\)", text)
    assert addresses == ["pictures/table1_c_fpn.png", "pictures/table1_d_bottom_up.png"]
    assert "(d) bottom-up pyramid:\n\n![" in text


def test_every_picture_of_a_page_is_beside_it(records, tmp_path: Path):
    paths = write(summarise("table1", "mini", paper_tables(), records), tmp_path)
    addresses = re.findall(r"!\[.*\]\((.*)\)", paths[0].read_text(encoding="utf-8"))
    assert addresses == ["table1_sizes.svg", "table1_proposals.svg", "table1_gaps.svg"]
    assert [path.name for path in paths[3:]] == addresses
    assert all(path.is_file() for path in paths)


def test_a_gap_table_leaves_out_rows_without_gaps(records, tmp_path: Path):
    gaps = page(records, tmp_path).split("## Gap", 1)[1].split("\n## ", 1)[0]
    assert "(e) top-down pyramid, w/o lateral" in gaps  # not run, but the paper has a gap
    assert "extra" not in gaps


def test_a_single_row_has_neither_figures_nor_an_agreement(make_rows, tmp_path: Path):
    assert re.findall("^## (.*)", page(make_rows(c_fpn=SIZED["c_fpn"]), tmp_path), flags=re.MULTILINE) == [
        "Results",
        "Rows and their cost",
        "How to read and check the numbers",
    ]
    assert not list(tmp_path.glob("*.svg"))

"""The page of a table: the order of its sections, the pictures and figures beside it, and remarks by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.page import write
from fpn_lightning.reporting.summary import summarise
from tests.reporting.builders import cells, page, rows, section

KEYS = ("AR10", "AR100", "AR1k_s", "AR1k_m", "AR1k_l")
VALUES = {
    "c_fpn": ((0.3, 0.3), (0.5, 0.52), (0.5, 0.5), (0.6, 0.6), (0.7, 0.7)),
    "d_bottom_up": ((0.2, 0.2), (0.4, 0.43), (0.4, 0.4), (0.6, 0.6), (0.7, 0.7)),
}
SIZED = {row: dict(zip(KEYS, values, strict=True)) for row, values in VALUES.items()}
SUMMARY = summarise("table1", "mini", paper_tables(), rows(**SIZED))


def headings(text: str) -> list[str]:
    return re.findall("^## (.*)", text, flags=re.MULTILINE)


def test_what_a_reader_wants_comes_first(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/table1_c_fpn.png").touch()
    assert headings(page(SUMMARY, tmp_path)) == [
        *("Results", "Agreement with the paper", "Gap to “(c) FPN”, in points", "Figures", "Pictures"),
        *("Rows and their cost", "How to read and check the numbers"),
    ]
    single = summarise("table1", "mini", paper_tables(), rows(c_fpn=SIZED["c_fpn"]))
    assert headings(page(single, tmp_path / "one")) == [
        *("Results", "Rows and their cost", "How to read and check the numbers")
    ]
    assert not list((tmp_path / "one").glob("*.svg"))


def test_the_agreement_is_one_line_one_grid_and_a_grid_on_demand(tmp_path: Path):
    text = page(SUMMARY, tmp_path)
    block = section(text, "Agreement with the paper")
    assert block.lstrip().startswith(
        "**Of 5 comparisons of two rows in one column, 3 give the paper's order. The others give the reversed order "
        "(0) or a difference within noise (2). Not compared: 1. "
    )
    assert (
        "is within noise if the absolute value of its mean over seeds is at most 2 times its sample standard" in block
    )
    shown, hidden = block.split(
        "<details><summary>First row minus second row, in points: ours (the paper's in brackets)</summary>\n\n"
    )
    assert cells(shown, 2)["(c) (d)"] == ["✓", "✓", "n/a", "✓", "·", "·"]
    assert "+9.5 ± 0.7 (+6.6)" in hidden
    assert hidden.rstrip().endswith("|\n\n</details>")
    gaps = section(text, "Gap")
    assert "(e) top-down pyramid, w/o lateral" in gaps  # not run, but the paper has a gap
    assert "extra" not in gaps  # neither has one


def test_pictures_and_figures_are_shown_where_they_are(tmp_path: Path):
    paths = write(SUMMARY, tmp_path)
    addresses = re.findall(r"!\[.*\]\((.*)\)", paths[0].read_text(encoding="utf-8"))
    assert addresses == ["table1_sizes.svg", "table1_proposals.svg", "table1_gaps.svg"]
    assert [path.name for path in paths[3:]] == addresses
    assert all(path.is_file() for path in paths)
    (tmp_path / "pictures").mkdir()
    for row in ("d_bottom_up", "c_fpn", "no_such_row"):
        (tmp_path / f"pictures/table1_{row}.png").touch()
    text = page(SUMMARY, tmp_path)
    addresses = re.findall(r"!\[.*\]\((pictures/.*)\)", text)
    assert addresses == ["pictures/table1_c_fpn.png", "pictures/table1_d_bottom_up.png"]
    assert "(d) bottom-up pyramid:\n\n![" in text


@pytest.fixture
def remarked(tmp_path: Path):
    """Returns the page with remarks of the given first line; the records are of commit 914c163."""

    def make(first_line: str) -> str:
        path = tmp_path / "records/mini/table1/remarks.md"
        path.parent.mkdir(parents=True)
        path.write_text(f"{first_line}\n\n- Because of the backbone.\n")
        return page(SUMMARY, tmp_path / "mini")

    return make


@pytest.mark.parametrize("start", ["About", "Written of"])
def test_remarks_follow_the_figures_without_their_first_line(start, remarked):
    text = remarked(f"{start} the records of commits 0123456, 914c163.")
    assert "## Remarks\n\n- Because of the backbone.\n" in text
    assert "0123456" not in text
    assert headings(text)[3:6] == ["Figures", "Remarks", "Rows and their cost"]


def test_remarks_of_other_records_are_left_out(remarked):
    assert "Because" not in remarked("About the records of commit 0123456.")


@pytest.mark.parametrize("first_line", ["- Because.", "About the records of commit xyz.", ""])
def test_remarks_that_name_no_commit_are_rejected(remarked, first_line):
    with pytest.raises(InputError, match=r"remarks\.md: the first line has to be"):
        remarked(first_line)

"""Remarks by hand are shown only with the records they are about."""

from __future__ import annotations

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.page import write
from fpn_lightning.reporting.summary import summarise

ROWS = {"c_fpn": {"AR100": (0.5, 0.52)}, "d_bottom_up": {"AR100": (0.4, 0.43)}}


@pytest.fixture
def page(make_rows, tmp_path):
    """Writes the page with remarks of the given first line and returns it."""

    def make(first_line: str) -> str:
        records = make_rows(**ROWS)
        assert {record.commit for record in records} == {"914c163"}
        folder = tmp_path / "records" / "mini" / "table1"
        folder.mkdir(parents=True)
        (folder / "remarks.md").write_text(f"{first_line}\n\n- Because of the backbone.\n")
        summary = summarise("table1", "mini", paper_tables(), records)
        return write(summary, tmp_path / "mini")[0].read_text()

    return make


@pytest.mark.parametrize("start", ["About", "Written of"])
def test_remarks_follow_the_figures_without_their_first_line(start, page):
    text = page(f"{start} the records of commits 0123456, 914c163.")
    assert "## Remarks\n\n- Because of the backbone.\n" in text
    assert "0123456" not in text
    assert text.index("## Figures") < text.index("## Remarks") < text.index("## Rows and their cost")


def test_remarks_of_other_records_are_left_out(page):
    assert "Because" not in page("About the records of commit 0123456.")


@pytest.mark.parametrize("first_line", ["- Because.", "About the records of commit xyz.", ""])
def test_remarks_that_name_no_commit_are_rejected(page, first_line):
    with pytest.raises(InputError, match=r"remarks\.md: the first line has to be"):
        page(first_line)

"""Tables of our own, declared as data: those of the package and those of a user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.paper import all_tables, paper_tables
from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.page import summaries
from fpn_lightning.reporting.summary import TableSummary, summarise
from tests.reporting.builders import cells, nested, page, save_runs, section

TABLES = all_tables(Path("nowhere"))
MINE = """
mine:
  title: My comparison
  ours: true
  reference: plain
  columns: [{key: AR100}]
  rows:
    plain: {label: Plain FPN, same_as: table1/c_fpn}
    better: {label: My pyramid}
"""


BACKBONES = [
    *nested("backbones/narrow/a_conv4", 0.20, 0.22),
    *nested("backbones/narrow/c_fpn", 0.30, 0.34),
    *nested("backbones/wide/a_conv4", 0.25, 0.25),
    *nested("backbones/wide/c_fpn", 0.24, 0.27),
]


def row(summary: TableSummary, name: str):
    return next(row for row in summary.rows if row.id == name)


def test_a_star_stands_for_every_name_that_was_run():
    summary = summarise("backbones", "mini", TABLES, BACKBONES)
    assert [(row.id, row.row.label) for row in summary.rows] == [
        ("narrow/a_conv4", "narrow: C4"),
        ("narrow/c_fpn", "narrow: FPN"),
        ("wide/a_conv4", "wide: C4"),
        ("wide/c_fpn", "wide: FPN"),
    ]
    # 30 - 20 and 34 - 22, within a backbone; -1 and 2 on the other, within noise.
    assert summary.paired_gap(row(summary, "narrow/c_fpn"), "AR100").values == pytest.approx((10, 12))
    assert summary.paired_gap(row(summary, "wide/c_fpn"), "AR100").values == pytest.approx((-1, 2))
    assert summary.unlisted == []


def test_a_variant_is_a_line_of_its_own_below_its_row(tmp_path: Path):
    runs = [*nested("table1/c_fpn", 0.40, 0.42), *nested("table1/a_conv4", 0.30)]
    summary = summarise("table1", "mini", TABLES, [*runs, *nested("table1/c_fpn/lr0.1", 0.43, 0.44)])
    ids = [row.id for row in summary.rows]
    assert ids[ids.index("c_fpn") + 1] == "c_fpn/lr0.1"
    assert summary.unlisted == []
    assert summary.paired_gap(row(summary, "c_fpn"), "AR100").values == pytest.approx((0, 0))
    assert summary.paired_gap(row(summary, "c_fpn/lr0.1"), "AR100").values == pytest.approx((3, 2))
    assert row(summary, "c_fpn").ours("AR100").values == pytest.approx((40, 42))
    text = page(summary, tmp_path)
    label = f"{row(summary, 'c_fpn').row.label}, lr0.1"
    assert "43.5 ± 0.7" in cells(section(text, "Results"))[label]


def test_the_page_has_numbers_gaps_and_no_word_of_the_paper(tmp_path: Path):
    text = page(summarise("backbones", "mini", TABLES, BACKBONES), tmp_path)
    assert "32.0 ± 2.8" in cells(section(text, "Results"))["narrow: FPN"]
    gaps = cells(section(text, "Gaps"))
    assert "+11.0 ± 1.4" in gaps["narrow: FPN minus narrow: C4"]
    assert "+0.5 ± 2.1 ·" in gaps["wide: FPN minus wide: C4"]
    assert "paper" not in text
    assert "Agreement" not in text
    assert {path.name for path in tmp_path.iterdir()} == {f"backbones.{suffix}" for suffix in ("md", "csv", "tex")}


def test_rows_of_another_table_stand_beside_those_run_again():
    records = nested("table1/c_fpn", 0.5, 0.52) + nested("table1/d_bottom_up", 0.4, 0.43)
    records += nested("deep_c2/c_fpn", 0.6, 0.62) + nested("deep_c2/d_bottom_up", 0.55, 0.57)
    summary = summarise("deep_c2", "mini", TABLES, records)
    assert row(summary, "shallow_c_fpn").shared_from == "table1/c_fpn"
    assert summary.paired_gap(row(summary, "shallow_c_fpn"), "AR100").values == pytest.approx((10, 9))
    assert summary.paired_gap(row(summary, "c_fpn"), "AR100").values == pytest.approx((5, 5))


def test_a_table_of_ours_is_rendered_if_one_of_its_own_rows_was_run(tmp_path: Path):
    def names(records):
        return [summary.name for summary in summaries("mini", TABLES, records, tmp_path)]

    assert names(nested("table1/c_fpn", 0.5)) == ["table1"]  # which Figure 1 shows too
    assert names(nested("table1/c_fpn", 0.5) + nested("figure1/c_ssd", 0.5)) == ["table1", "figure1"]
    assert names(BACKBONES) == ["backbones"]


def test_a_users_table_needs_a_yaml_and_no_code(tmp_path: Path, capsys):
    reports = tmp_path / "reports"
    (reports / "tables").mkdir(parents=True)
    (reports / "tables/mine.yaml").write_text(MINE, encoding="utf-8")
    save_runs(nested("table1/c_fpn", 0.5, 0.52) + nested("mine/better", 0.6, 0.63), tmp_path / "runs")
    assert command.main(["--runs", str(tmp_path / "runs"), "--reports", str(reports)]) == 0
    text = (reports / "mini/mine.md").read_text(encoding="utf-8")
    assert text.startswith("# My comparison (preset mini)\n")
    assert re.search(r"^\| My pyramid +\| +\+10\.5 ± 0\.7 \|", text, flags=re.MULTILINE)
    assert "Plain FPN: this row shows the records of table1/c_fpn, because the models are the same." in text
    assert "My pyramid" in capsys.readouterr().out
    assert command.main(["--runs", "none", "--reports", str(reports), "--tables", "yours"]) == 2
    assert "--tables yours: there is no such table; the tables are table1, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mine:", "table1:", r"mine\.yaml: table1: another file has a table of this name"),
        ("mine:", "backbones:", r"mine\.yaml: backbones: another file has a table"),
        ("table1/c_fpn", "table1/g", r"mine\.yaml: mine\.rows\.plain\.same_as: .*table1/g"),
        ("My pyramid", "My pyramid, reference: z", r"mine\.yaml: mine\.rows\.better\.reference: .*'z'"),
        ("  ours: true\n", "", r"mine\.yaml: mine\.setting: .*ours: true"),
        ("[{key: AR100}]", "[]", r"mine\.yaml: mine\.columns: the table has no column"),
    ],
)
def test_a_fault_in_a_users_table_names_file_and_key(old: str, new: str, message: str, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(MINE.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        all_tables(tmp_path)


def test_the_papers_tables_come_first():
    assert list(TABLES)[: len(paper_tables())] == list(paper_tables())

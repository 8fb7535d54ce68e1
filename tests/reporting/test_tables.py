"""The numbers of a table as Markdown, CSV and LaTeX, and what the page says of the records behind them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting import page
from fpn_lightning.reporting.grids import number
from fpn_lightning.reporting.summary import TableSummary, summarise
from fpn_lightning.reporting.tables import csv_text, latex, latex_escape
from fpn_lightning.runs.record import Data, Record, Train
from tests.records import a_record
from tests.reporting.builders import cells, section

TABLES = paper_tables()
GOLDEN = Path(__file__).with_name("golden_table5.md").read_text(encoding="utf-8")
# The shared row over three seeds, the unshared one standing in from Table 2.
TABLE5 = summarise(
    "table5",
    "mini",
    TABLES,
    [
        a_record("table2/c_fpn", metrics={"AP50": 0.48, "AP": 0.30}),
        *(a_record("table5/r50_shared", n, metrics={"AP50": v, "AP": None}) for n, v in enumerate((0.48, 0.52, 0.50))),
    ],
)


def markdown(summary: TableSummary) -> str:
    """The page without figures."""
    return page.markdown(summary, None, [], Path("nowhere"))


def shown(records: list[Record], title: str, preset: str = "mini") -> dict[str, list[str]]:
    """The cells of a grid of the page of the first record's table."""
    return cells(section(markdown(summarise(records[0].experiment.table, preset, TABLES, records)), title))


def csv_lines(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(line["row"], line["metric"]): line for line in csv.DictReader(io.StringIO(text))}


def full_scale(cell: str, steps: int, backbone: str = "resnet50", **changes: Any) -> Record:
    """A record made with the paper's data, schedule and backbone."""
    data = Data(name="coco", split="val2017", fingerprint="c0c0", num_images=5000)
    train = Train(steps=steps, total_batch=16, lr=0.02)
    return a_record(cell, preset="8gpu", **({"data": data, "train": train, "backbone": backbone} | changes))


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_renders_in_every_form(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    metrics = {column.key: 0.25 for column in table.columns}
    run = [f"{name}/{row}" for row in table.rows if not table.rows[row].literature]
    hardware = "50% of a_b & c#d ~^\\"
    records = [a_record(cell, seed, metrics=metrics, hardware=hardware) for cell in run for seed in (0, 1)]
    first = [path.read_bytes() for path in page.write(summarise(name, "mini", TABLES, records), tmp_path / "a")]
    paths = page.write(summarise(name, "mini", TABLES, records[::-1]), tmp_path / "b")
    assert [path.read_bytes() for path in paths] == first
    assert [path.name for path in paths[:3]] == [f"{name}.md", f"{name}.csv", f"{name}.tex"]
    assert {path.suffix for path in paths[3:]} == ({".svg"} if len(records) > 2 else set())
    text = paths[0].read_text()
    assert "not run" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({(len(line), line.count("|")) for line in block.splitlines()}) == 1
    assert len(paths[1].read_text().splitlines()) == 1 + len(table.rows) * len(table.columns)
    _check_latex(paths[2].read_text())


def _check_latex(text: str) -> None:
    """Only characters and commands that LaTeX with booktabs knows; braces, floats and columns match."""
    assert text.isascii()
    body = text.split("\n", 1)[1]
    plain = body.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[%#]", body)
    outside_math = re.sub(r"(?<!\\)\$[^$]*\$", "", body)
    assert not re.search(r"(?<!\\)[_^~]", outside_math.replace(r"\textasciitilde", "").replace(r"\textasciicircum", ""))
    begun, ended = re.findall(r"\\begin{(.*?)}", body), re.findall(r"\\end{(.*?)}", body)
    assert sorted(begun) == sorted(ended)
    for spec, content in re.findall(r"\\begin{tabular}{([lr]+)}\n(.*?)\\end{tabular}", body, flags=re.DOTALL):
        rows = [line for line in content.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(spec)}
        assert [line for line in content.splitlines() if line not in rows] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_latex_escapes() -> None:
    assert latex_escape("50% & a_b ± {Pk} #1 [5×5]") == r"50\% \& a\_b $\pm$ \{Pk\} \#1 {[}5$\times$5{]}"
    assert latex_escape("a\\b~c^d$") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\$"


def test_numbers() -> None:
    values = (None, 0.04, -0.04, 7.96, -7.9)
    assert [number(value, sign=True) for value in values] == ["", "0.0", "0.0", "+8.0", "-7.9"]
    assert number(-0.04) == "0.0"


def test_golden_markdown(tmp_path: Path) -> None:
    assert page.write(TABLE5, tmp_path)[0].read_text(encoding="utf-8") == GOLDEN


def test_csv_has_means_spreads_and_gaps() -> None:
    text = csv_text(TABLE5)
    lines = csv_lines(text)
    assert len(lines) == len(text.splitlines()) - 1 == 4 * 2
    # 48, 52, 50: mean 50, deviations -2, 2, 0, so sqrt(8 / 2) = 2.
    shared = lines["r50_shared", "AP50"]
    assert (shared["ours_mean"], shared["ours_std"], shared["num_seeds"]) == ("50", "2", "3")
    assert (shared["paper"], shared["paper_gap"], shared["ours_gap"]) == ("57.2", "0.3", "2")
    assert shared["difference"] == ""
    assert (lines["r50_shared", "AP"]["ours_mean"], lines["r50_shared", "AP"]["num_seeds"]) == ("", "0")
    unshared = lines["r50_unshared", "AP"]
    assert (unshared["ours_mean"], unshared["ours_std"], unshared["num_seeds"]) == ("30", "", "1")
    assert unshared["records_of"] == "table2/c_fpn"
    missing = lines["r101_shared", "AP"]
    assert (missing["status"], missing["ours_mean"], missing["num_seeds"]) == ("not run", "", "0")


def test_the_backbone_of_each_row_is_shown() -> None:
    records = [
        a_record("table5/r50_shared", parameters=1000, backbone="NarrowResNet"),
        a_record("table5/r101_shared", parameters=3000, backbone="DeeperResNet"),
    ]
    found = shown(records, "Rows and their cost")
    assert found["row"][3:5] == ["our backbone", "parameters"]
    assert found["ResNet-50, shared"][3:5] == ["NarrowResNet", "1,000"]
    assert found["ResNet-101, shared"][3:5] == ["DeeperResNet", "3,000"]


def test_own_records_come_before_those_of_the_same_model_elsewhere() -> None:
    records = [a_record("table2/c_fpn", metrics={"AP": 0.30}), a_record("table3/c_fpn", metrics={"AP": 0.31})]
    summary = summarise("table3", "mini", TABLES, records)
    assert csv_lines(csv_text(summary))["c_fpn", "AP"]["ours_mean"] == "31"
    assert "the records of table2/c_fpn" not in markdown(summary)


def test_literature_rows_are_never_ours() -> None:
    found = shown([a_record("table3/a_conv4", metrics={"AP": 0.2})], "Results")
    assert found["(*) baseline from He et al. on conv4"] == ["literature", "47.3", "", "26.3", *7 * [""]]


def test_extra_metrics_stand_beside_the_papers_where_recorded() -> None:
    record = a_record(metrics={"AR10": 0.25, "AR100": 0.5})
    found = shown([record], "Results")
    assert found["row"][:4] == ["seeds", "AR10 ours", "AR100 paper", "ours"]
    assert found["(c) FPN"][:6] == ["1", "25.0", "44.0", "50.0", "56.3", "n/a"]
    other = replace(record, experiment=replace(record.experiment, preset="modern"))
    assert "AR10 ours" not in shown([other], "Results", "modern")["row"]


def test_difference_where_data_schedule_and_backbone_match() -> None:
    good = full_scale("table1/c_fpn", 40000, metrics={"AR100": 0.45})
    text = markdown(summarise("table1", "8gpu", TABLES, [good]))
    assert "Our runs use the paper's data, schedule and backbone." in text
    assert cells(section(text, "Difference to the paper"))["(c) FPN"] == ["+1.0", "", "", "", ""]
    named = replace(good, data=replace(good.data, name="COCO 2017 Dataset"))
    other = text.replace("data set “coco”;", "data set “COCO 2017 Dataset”;")
    assert markdown(summarise("table1", "8gpu", TABLES, [named])) == other
    # One device, an eighth of the batch, eight times the steps: the same schedule.
    longer = replace(good, train=Train(steps=320000, total_batch=2, lr=0.0025))
    assert shown([longer], "Difference to the paper", "8gpu")["(c) FPN"][0] == "+1.0"


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("experiment", {"preset": "mini"}, "preset is mini, not 8gpu or 1gpu or paper"),
        ("data", {"name": "synthetic"}, "data is synthetic, not coco"),
        ("data", {"split": "train2017"}, "split is train2017"),
        ("data", {"num_images": 66}, "evaluated on 66 images, not 5000"),
        ("train", {"steps": 10000}, "trained on 160000 images (steps x batch), not 640000"),
        ("train", {"lr": None}, "the record does not have the learning rate"),
        (
            "train",
            {"steps": 320000, "total_batch": 2},
            "learning rate is 0.02, not 0.0025 (the paper's, scaled to 2 images a step)",
        ),
        (None, {"backbone": "resnet101"}, "backbone is resnet101, not resnet50"),
    ],
)
def test_no_difference_where_anything_does_not_match(part: str | None, changes: dict[str, Any], reason: str) -> None:
    good = full_scale("table1/c_fpn", 40000, metrics={"AR100": 0.45})
    record = replace(good, **({part: replace(getattr(good, part), **changes)} if part else changes))
    summary = summarise("table1", record.experiment.preset, TABLES, [record])
    (found,) = (row.mismatches for row in summary.run)
    assert len(found) == 1
    assert found[0].startswith(reason)
    text = markdown(summary)
    if record.experiment.preset == "mini":
        assert "Preset mini differs from the paper in at least one of data, backbone and schedule." in text
    else:
        assert f"For (c) FPN, the difference to the paper is not shown, because {reason}" in text
    assert "Difference to the paper (" not in text
    assert {line["difference"] for line in csv_lines(csv_text(summary)).values()} == {""}


def test_table4_shows_the_servers_columns_apart() -> None:
    metrics = {"AP": 0.36, "test_dev_AP": 0.37, "test_std_AP50": 0.6}
    records = [full_scale("table4/fpn_r101", 160000, backbone="resnet101", metrics=metrics)]
    titles = ("Results, minival", "Results, test-dev", "Results, test-std", "Difference")
    minival, dev, std, difference = (shown(records, title, "8gpu")["Faster R-CNN on FPN"] for title in titles)
    assert minival[3:5] == ["35.6", "36.0"]
    assert dev[:5] == ["1", "59.1", "n/a", "36.2", "37.0"]
    assert std[:3] == ["1", "58.5", "60.0"]
    assert difference[:7] == ["", "+0.4", "", "", "", "", "+0.8"]
    assert "G-RMI" not in shown(records, "Results, test-std", "8gpu")


def test_records_that_differ_are_a_warning() -> None:
    other_data = replace(a_record().data, fingerprint="beef")
    records = [a_record(), a_record("table1/a_conv4", data=other_data), a_record("table1/b_conv5", steps=3000)]
    assert summarise("table1", "mini", TABLES, [records[0], a_record("table1/e_no_lateral")]).warnings == []
    summary = summarise("table1", "mini", TABLES, records)
    assert len(summary.records) == 3
    assert len(summary.warnings) == 2
    assert "the data (fingerprint) differs (beef: a_conv4; f00d: b_conv5, c_fpn)" in summary.warnings[0]
    assert (
        "steps differs (3.75 % of the paper's steps: a_conv4, c_fpn; 7.5 % of the paper's steps: b_conv5)"
        in summary.warnings[1]
    )
    assert markdown(summary).count("> **Warning.** ") == 2
    assert "beef" in latex(summary)


@pytest.mark.parametrize(("steps", "warnings"), [(3000, 0), (1500, 1)])
def test_a_row_the_paper_trains_twice_as_long_may_do_so_here(steps: int, warnings: int) -> None:
    records = [a_record("table6/dual_28", steps=1500), a_record("table6/dual_28_2x", steps=steps)]
    assert len(summarise("table6", "mini", TABLES, records).warnings) == warnings


def test_quickstart_shows_the_untrained_model_beside_the_trained_one() -> None:
    record = a_record(preset="quickstart", metrics={"AR10": 0.2, "AR100": 0.4}, untrained={"AR100": 0.01})
    summary = summarise("table1", "quickstart", TABLES, [record])
    found = shown([record], "Results", "quickstart")
    assert found.pop("row")[:4] == ["seeds", "AR10 ours", "AR100 paper", "ours"]
    assert found.pop("(c) FPN")[:4] == ["1", "20.0", "44.0", "40.0"]
    assert found.pop("the same model, untrained")[:4] == ["", "n/a", "", "1.0"]
    assert [line[0] for name, line in found.items() if "---" not in name] == ["not run"] * 7
    assert "## Gap" not in markdown(summary)
    assert csv_lines(csv_text(summary))["c_fpn", "AR100"]["untrained_mean"] == "1"


def test_only_tables_with_records_of_their_own() -> None:
    records = [a_record("table2/c_fpn"), a_record("table6/mlp5"), a_record("zoo/torchvision")]
    found = page.summaries("mini", TABLES, records, Path("nowhere"))
    assert [summary.name for summary in found] == ["table2", "table6"]


def test_rows_that_the_table_does_not_have_are_mentioned() -> None:
    records = [a_record("table3/a_conv4"), a_record("table3/steps/rpn_c4")]
    text = markdown(summarise("table3", "mini", TABLES, records))
    assert "No row of this table shows these run records: table3/steps/rpn_c4." in text

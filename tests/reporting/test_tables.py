from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting import page
from fpn_lightning.reporting.summary import TableSummary, summarise
from fpn_lightning.reporting.tables import csv_text, latex
from fpn_lightning.runs.record import Data, Record, Train

MakeRecord = Callable[..., Record]

GOLDEN = Path(__file__).with_name("golden_table5.md").read_text(encoding="utf-8")


@pytest.fixture
def table5(make_record: MakeRecord) -> TableSummary:
    """The shared row over three seeds, the unshared one standing in from Table 2."""
    records = [make_record("table2/c_fpn", metrics={"AP50": 0.48, "AP": 0.30})]
    for seed, ap50 in enumerate((0.48, 0.52, 0.50)):
        records.append(make_record("table5/r50_shared", seed, metrics={"AP50": ap50, "AP": None}))
    return summarise("table5", "mini", paper_tables(), records)


def _lines(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(line["row"], line["metric"]): line for line in csv.DictReader(io.StringIO(text))}


def _cells(text: str, title: str) -> dict[str, list[str]]:
    """The cells of a Markdown grid by the name of the row."""
    block = text.split(f"## {title}", 1)[1].split("\n## ", 1)[0].split("\n- ", 1)[0]
    lines = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines if not line[0].startswith(" --")}


def markdown(summary: TableSummary) -> str:
    """The page without figures."""
    return page.markdown(summary, None, [], Path("nowhere"))


def test_golden_markdown(table5: TableSummary, tmp_path: Path) -> None:
    paths = page.write(table5, tmp_path)
    assert paths[0].read_text(encoding="utf-8") == GOLDEN


def test_the_backbone_of_each_row_is_shown(make_record: MakeRecord) -> None:
    records = [
        make_record("table5/r50_shared", parameters=1000, backbone="NarrowResNet"),
        make_record("table5/r101_shared", parameters=3000, backbone="DeeperResNet"),
    ]
    cells = _cells(markdown(summarise("table5", "mini", paper_tables(), records)), "Rows and their cost")
    assert cells["row"][3:5] == ["our backbone", "parameters"]
    assert cells["ResNet-50, shared"][3:5] == ["NarrowResNet", "1,000"]
    assert cells["ResNet-101, shared"][3:5] == ["DeeperResNet", "3,000"]


def test_csv_has_means_spreads_and_gaps(table5: TableSummary) -> None:
    text = csv_text(table5)
    lines = _lines(text)
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


def test_own_records_come_before_those_of_the_same_model_elsewhere(make_record: MakeRecord) -> None:
    records = [
        make_record("table2/c_fpn", metrics={"AP": 0.30}),
        make_record("table3/c_fpn", metrics={"AP": 0.31}),
    ]
    summary = summarise("table3", "mini", paper_tables(), records)
    assert _lines(csv_text(summary))["c_fpn", "AP"]["ours_mean"] == "31"
    assert "a second time" not in markdown(summary)


def test_literature_rows_are_never_ours(make_record: MakeRecord) -> None:
    summary = summarise("table3", "mini", paper_tables(), [make_record("table3/a_conv4", metrics={"AP": 0.2})])
    cells = _cells(markdown(summary), "Results")["(*) baseline from He et al. on conv4"]
    assert cells == ["literature", "47.3", "", "26.3", "", "", "", "", "", "", ""]


def test_extra_metrics_stand_beside_the_papers_where_recorded(make_record: MakeRecord) -> None:
    record = make_record(metrics={"AR10": 0.25, "AR100": 0.5})
    text = markdown(summarise("table1", "mini", paper_tables(), [record]))
    cells = _cells(text, "Results")
    assert cells["row"][:4] == ["seeds", "AR10 ours", "AR100 paper", "ours"]
    assert cells["(c) FPN"][:6] == ["1", "25.0", "44.0", "50.0", "56.3", "n/a"]
    other = replace(record, experiment=replace(record.experiment, preset="modern"))
    assert "AR10 ours" not in markdown(summarise("table1", "modern", paper_tables(), [other]))


def test_difference_only_where_data_schedule_and_backbone_match(make_full_scale_record: MakeRecord) -> None:
    make, tables = make_full_scale_record, paper_tables()
    good = make("table1/c_fpn", 40000, metrics={"AR100": 0.45})
    text = markdown(summarise("table1", "8gpu", tables, [good]))
    assert "Data, schedule and backbone are the paper's." in text
    assert _cells(text, "Difference to the paper")["(c) FPN"] == ["+1.0", "", "", "", ""]
    named = replace(good, data=replace(good.data, name="COCO 2017 Dataset"))
    assert markdown(summarise("table1", "8gpu", tables, [named])) == text.replace(
        "images of coco;", "images of COCO 2017 Dataset;"
    )
    # One device, an eighth of the batch, eight times the steps: the same schedule.
    longer = replace(good, train=Train(steps=320000, total_batch=2, lr=0.0025))
    assert _cells(markdown(summarise("table1", "8gpu", tables, [longer])), "Difference to the paper")
    wrong = {
        "data is synthetic, not coco": replace(good, data=replace(good.data, name="synthetic")),
        "split is train2017": replace(good, data=replace(good.data, split="train2017")),
        "evaluated on 66 images, not 5000": replace(good, data=replace(good.data, num_images=66)),
        "trained on 160000 images (steps x batch), not 640000": replace(
            good, train=Train(steps=10000, total_batch=16, lr=0.02)
        ),
        "the record does not have the learning rate": replace(good, train=Train(steps=40000, total_batch=16)),
        "the learning rate is 0.02, not 0.0025 for 2 images a step": replace(
            good, train=Train(steps=320000, total_batch=2, lr=0.02)
        ),
        "backbone is resnet101, not resnet50": replace(good, backbone="resnet101"),
    }
    for reason, record in wrong.items():
        summary = summarise("table1", "8gpu", tables, [record])
        assert f"(c) FPN: no difference to the paper is shown: {reason}" in markdown(summary)
        assert "Difference to the paper (" not in markdown(summary)
        assert {line["difference"] for line in _lines(csv_text(summary)).values()} == {""}


def test_no_difference_at_another_scale_even_on_the_papers_data(make_full_scale_record: MakeRecord) -> None:
    record = make_full_scale_record("table1/c_fpn", 40000)
    mini = replace(record, experiment=replace(record.experiment, preset="mini"))
    text = markdown(summarise("table1", "mini", paper_tables(), [mini]))
    assert "Preset mini is not the paper's scale." in text
    assert "Difference to the paper (" not in text


def test_table4_shows_the_servers_columns_apart(make_full_scale_record: MakeRecord) -> None:
    metrics = {"AP": 0.36, "test_dev_AP": 0.37, "test_std_AP50": 0.6}
    record = make_full_scale_record("table4/fpn_r101", 160000, backbone="resnet101", metrics=metrics)
    text = markdown(summarise("table4", "8gpu", paper_tables(), [record]))
    assert _cells(text, "Results, minival")["Faster R-CNN on FPN"][3:5] == ["35.6", "36.0"]
    assert _cells(text, "Results, test-dev")["Faster R-CNN on FPN"][:5] == ["1", "59.1", "n/a", "36.2", "37.0"]
    assert _cells(text, "Results, test-std")["Faster R-CNN on FPN"][:3] == ["1", "58.5", "60.0"]
    assert _cells(text, "Difference")["Faster R-CNN on FPN"][:7] == ["", "+0.4", "", "", "", "", "+0.8"]
    assert "G-RMI" not in _cells(text, "Results, test-std")


def test_records_that_differ_are_a_warning(make_record: MakeRecord) -> None:
    other_data = Data(name="synthetic", split="val", fingerprint="beef", num_images=500)
    records = [make_record(), make_record("table1/a_conv4", data=other_data), make_record("table1/b_conv5", steps=3000)]
    agreeing = summarise("table1", "mini", paper_tables(), [records[0], make_record("table1/e_no_lateral")])
    assert agreeing.warnings == []
    warnings = summarise("table1", "mini", paper_tables(), records).warnings
    assert len(warnings) == 2
    assert "the data (fingerprint) differs (beef: a_conv4; f00d: b_conv5, c_fpn)" in warnings[0]
    assert "steps differs (3.75 % of the paper's: a_conv4, c_fpn; 7.5 % of the paper's: b_conv5)" in warnings[1]
    text = markdown(summarise("table1", "mini", paper_tables(), records))
    assert text.count("> **Warning.** ") == 2
    assert "beef" in latex(summarise("table1", "mini", paper_tables(), records))


def test_a_row_the_paper_trains_twice_as_long_may_do_so_here(make_record: MakeRecord) -> None:
    records = [make_record("table6/dual_28", steps=1500), make_record("table6/dual_28_2x", steps=3000)]
    assert summarise("table6", "mini", paper_tables(), records).warnings == []
    records[1] = replace(records[1], train=replace(records[1].train, steps=1500))
    assert len(summarise("table6", "mini", paper_tables(), records).warnings) == 1


def test_quickstart_shows_the_untrained_model_beside_the_trained_one(make_record: MakeRecord) -> None:
    record = make_record(preset="quickstart", metrics={"AR10": 0.2, "AR100": 0.4}, untrained={"AR100": 0.01})
    summary = summarise("table1", "quickstart", paper_tables(), [record])
    cells = _cells(markdown(summary), "Results")
    assert cells["row"][:4] == ["seeds", "AR10 ours", "AR100 paper", "ours"]
    assert cells["(c) FPN"][:4] == ["1", "20.0", "44.0", "40.0"]
    assert cells["the same model, untrained"][:4] == ["", "n/a", "", "1.0"]
    run = ("row", "(c) FPN", "the same model, untrained")
    assert [row[0] for name, row in cells.items() if name not in run] == ["not run"] * 7
    assert "## Gap" not in markdown(summary)
    assert _lines(csv_text(summary))["c_fpn", "AR100"]["untrained_mean"] == "1"


def test_only_tables_with_records_of_their_own(make_record: MakeRecord) -> None:
    records = [make_record("table2/c_fpn"), make_record("table6/mlp5"), make_record("zoo/torchvision")]
    found = page.summaries("mini", paper_tables(), records, Path("nowhere"))
    assert [summary.name for summary in found] == ["table2", "table6"]


def test_rows_that_the_table_does_not_have_are_mentioned(make_record: MakeRecord) -> None:
    records = [make_record("table3/a_conv4"), make_record("table3/steps/rpn_c4")]
    text = markdown(summarise("table3", "mini", paper_tables(), records))
    assert "Records that are not a row of this table: table3/steps/rpn_c4." in text

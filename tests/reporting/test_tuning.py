"""Learning rates tried: the best of each row by the metric that decides, and what the page says of seed and split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.tuning import page, tried, write
from fpn_lightning.runs.record import Train


def run(make_record, table, row, rate, metrics, **changes):
    record = make_record(f"{row}", 100, metrics=metrics, steps=400)
    experiment = replace(record.experiment, table=f"tuning/{table}/lr{rate}", row=row)
    data = replace(record.data, split="tune")
    return replace(record, experiment=experiment, data=data, **changes)


@pytest.fixture
def runs(make_record):
    """(c) is best at 0.006; (f) at 0.002 by AR100, which decides, though not by AR10; (a) was run once."""
    values = {
        ("f_finest", 0.002): (0.05, 0.20),
        ("f_finest", 0.006): (0.08, 0.15),
        ("c_fpn", 0.002): (0.20, 0.40),
        ("c_fpn", 0.006): (0.25, 0.45),
        ("c_fpn", 0.012): (0.22, 0.42),
        ("a_conv4", 0.006): (0.10, 0.30),
    }
    return [
        run(make_record, "table1", row, rate, {"AR10": ar10, "AR100": ar100})
        for (row, rate), (ar10, ar100) in values.items()
    ]


def cells(text: str, heading: str) -> dict[str, list[str]]:
    block = text.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_best_learning_rate_of_each_row_is_marked(runs):
    text = page("mini", tried(runs), runs)
    decided = cells(text, "AR100")
    assert decided["row"] == ["lr 0.002", "lr 0.006", "lr 0.012", "best", "ahead of next by"]
    assert decided["(c) FPN"] == ["40.0", "**45.0**", "42.0", "0.006", "3.0"]
    assert decided["(f) only finest level"] == ["**20.0**", "15.0", "", "0.002", "5.0"]
    assert decided["(a) baseline on conv4"] == ["", "30.0", "", "", ""]  # nothing to choose from
    assert list(decided)[2:] == ["(a) baseline on conv4", "(c) FPN", "(f) only finest level"]  # the paper's order
    assert cells(text, "AR10")["(f) only finest level"] == ["5.0", "8.0", ""]
    assert "### AR30" not in text  # no record has it
    assert "so that a smaller learning rate might be better still: (f) only finest level." in text
    assert "a larger learning rate" not in text
    assert "Only one learning rate: (a) baseline on conv4." in text
    assert "One run for each number" in text


def test_average_precision_decides_for_table_2(make_record):
    values = {0.002: {"AP": 0.10, "AP50": 0.40}, 0.006: {"AP": 0.12, "AP50": 0.30}}
    runs = [run(make_record, "table2", "c_fpn", rate, metrics) for rate, metrics in values.items()]
    text = page("mini", tried(runs), runs)
    assert cells(text, "AP")["(c) FPN"] == ["10.0", "**12.0**", "0.006", "2.0"]
    assert "### AR10" not in text


def test_recall_of_segments_at_1000_decides_for_table_6_beside_recall_at_fewer(make_record):
    values = {0.002: 0.30, 0.006: 0.35}
    runs = [
        run(
            make_record,
            "table6",
            "dual",
            rate,
            {"segm_AR1k": ar, "segm_AR100": ar / 2, "segm_AR10": 0.1, "segm_AR1k_s": 0.1},
        )
        for rate, ar in values.items()
    ]
    text = page("mini", tried(runs), runs)
    assert "AR is times 100. In bold: the best learning rate of each row, by segm_AR1k." in text
    label = "FPN, dual MLP [5×5, 7×7]"
    assert cells(text, "segm_AR1k")[label] == ["30.0", "**35.0**", "0.006", "5.0"]
    assert cells(text, "segm_AR100")[label] == ["15.0", "17.5"]
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### segm_AR1k",
        "### segm_AR10",
        "### segm_AR100",
    ]


def test_seeds_of_one_learning_rate_are_averaged(make_record, runs):
    more = [replace(record, experiment=replace(record.experiment, seed=101)) for record in runs]
    more = [replace(record, metrics={**record.metrics, "AR100": record.metrics["AR100"] + 0.02}) for record in more]
    text = page("mini", tried(runs + more), runs + more)
    assert cells(text, "AR100")["(c) FPN"][1] == "**46.0 ± 1.4**"  # 45 and 47
    assert "Tuned with seeds 100 and 101 and split tune." in text
    assert "One run for each number" not in text


def test_seed_split_and_schedule_are_said(runs, make_record):
    reported = make_record("table1/c_fpn", 0, train=Train(steps=1500, total_batch=8, lr=0.006))
    text = page("mini", tried(runs), [*runs, reported])
    assert "Tuned with seed 100 and split tune. Neither seed nor split is used in a reported table." in text
    assert "400 steps of 8 images, evaluated on 500 images." in text
    assert cells(text, "AR100")["row"][-1] == "used in Table 1"
    assert cells(text, "AR100")["(c) FPN"][-1] == "0.006"


@pytest.mark.parametrize(("seed", "split", "shared"), [(100, "val", "seed 100"), (0, "tune", "split tune")])
def test_a_seed_or_split_that_is_reported_too_is_called_out(seed, split, shared, runs, make_record):
    reported = make_record("table2/c_fpn", seed)
    reported = replace(reported, data=replace(reported.data, split=split))
    text = page("mini", tried(runs), [*runs, reported])
    assert f"> **Warning.** Tuned with seed 100 and split tune; {shared} also in reported tables" in text
    assert "Neither" not in text


def test_runs_that_cannot_be_compared_are_called_out(runs):
    longer = replace(runs[0], train=Train(steps=800, total_batch=8, lr=0.004))
    text = page("mini", tried([longer, *runs[1:]]), runs)
    assert "> **Warning.** Table 1: the runs differ in data, split, steps or batch" in text
    assert "tuning/table1/lr0.002/f_finest seed 100: the run used learning rate 0.004." in text


@pytest.mark.parametrize("name", ["tuning/table1/0.002", "tuning/table1/lrfast", "tuning/table9/lr0.002", "tuning/lr1"])
def test_a_name_without_table_and_learning_rate_is_refused(name, runs):
    wrong = replace(runs[0], experiment=replace(runs[0].experiment, table=name))
    with pytest.raises(InputError, match=rf"{name}/f_finest seed 100: experiment\.table: .*tuning/table1/lr0\.006"):
        tried([wrong])


def test_the_command_writes_the_page(runs, tmp_path: Path):
    for record in runs:
        record.save(tmp_path / "runs" / record.experiment.path / "metrics.json")
    assert command.main(["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports")]) == 0
    assert (tmp_path / "reports/mini/tuning.md").read_text(encoding="utf-8") == page("mini", tried(runs), runs)
    assert write("mini", [], tmp_path) is None

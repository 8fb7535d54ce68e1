"""Learning rates tried: the best of each row, and warnings about seed, split and schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.tuning import write
from fpn_lightning.runs.record import Train
from tests.records import a_record
from tests.reporting.builders import cells, save_runs


def run(table, row, rate, metrics, seed=100):
    record = a_record(row, seed, metrics=metrics, steps=400)
    experiment = replace(record.experiment, table=f"tuning/{table}/lr{rate}", row=row)
    return replace(record, experiment=experiment, data=replace(record.data, split="tune"))


# AR10 and AR100: (c) is best at 0.006; (f) at 0.002 by AR100, which decides, though not by AR10; (a) was run once.
VALUES = {
    ("f_finest", 0.002): (0.05, 0.20),
    ("f_finest", 0.006): (0.08, 0.15),
    ("c_fpn", 0.002): (0.20, 0.40),
    ("c_fpn", 0.006): (0.25, 0.45),
    ("c_fpn", 0.012): (0.22, 0.42),
    ("a_conv4", 0.006): (0.10, 0.30),
}
RUNS = [run("table1", row, lr, {"AR10": ar10, "AR100": ar100}) for (row, lr), (ar10, ar100) in VALUES.items()]


@pytest.fixture
def page(tmp_path: Path):
    return lambda runs: write("mini", runs, tmp_path).read_text(encoding="utf-8")


def test_the_best_learning_rate_of_each_row_is_bold(page):
    shown, hidden = (cells(part, 2) for part in page(RUNS).split("<details>"))
    assert shown["row metric"] == ["lr 0.002", "lr 0.006", "lr 0.012", "used"]
    assert shown["Table 1: (c) FPN AR100"] == ["40.0", "**45.0**", "42.0", ""]
    assert shown["Table 1: (f) only finest level AR100"] == ["**20.0**", "15.0", "", ""]
    assert shown["Table 1: (a) baseline on conv4 AR100"] == ["", "30.0", "", ""]  # nothing to choose from
    assert [name.split()[2] for name in list(shown)[2:]] == ["(a)", "(c)", "(f)"]  # the paper's order
    assert hidden["Table 1: (f) only finest level AR10"] == ["5.0", "8.0", "", ""]
    assert not any(name.endswith("AR30") for name in hidden)  # no record has it


def test_the_tables_main_metric_decides(page):
    values = {0.002: {"AP": 0.10, "AP50": 0.40}, 0.006: {"AP": 0.12, "AP50": 0.30}}
    text = page([run("table2", "c_fpn", rate, metrics) for rate, metrics in values.items()])
    assert cells(text, 2)["Table 2: (c) FPN AP"] == ["10.0", "**12.0**", ""]
    assert "<details>" not in text
    segments = {lr: {"segm_AR1k": ar, "segm_AR100": ar / 2, "segm_AR1k_s": 0.1} for lr, ar in ((1, 0.30), (2, 0.35))}
    found = cells(page([run("table6", "dual", rate, metrics) for rate, metrics in segments.items()]), 2)
    label = "Table 6: FPN, dual MLP [5×5, 7×7]"
    assert found[f"{label} segm_AR1k"] == ["30.0", "**35.0**", ""]
    assert found[f"{label} segm_AR100"] == ["15.0", "17.5", ""]
    assert f"{label} segm_AR1k_s" not in found


def test_seeds_are_averaged_and_schedule_and_the_rate_used_are_shown(page):
    more = [run("table1", row, lr, {"AR100": ar100 + 0.02}, 101) for (row, lr), (_, ar100) in VALUES.items()]
    reported = a_record("table1/c_fpn", 0, train=Train(steps=1500, total_batch=8, lr=0.006))
    text = page([*RUNS, *more, reported])
    assert cells(text, 2)["Table 1: (c) FPN AR100"][1:] == ["**46.0 ± 1.4**", "43.0 ± 1.4", "0.006"]  # 45 and 47
    assert "The runs have 400 training steps of 8 images and use seed 100, 101." in text
    assert "They are evaluated on 500 images of the split tune." in text
    assert "Warning" not in text


@pytest.mark.parametrize(("seed", "split", "shared"), [(100, "val", "seed 100"), (0, "tune", "split tune")])
def test_a_seed_or_split_that_a_table_uses_too_is_a_warning(seed, split, shared, page):
    reported = a_record("table2/c_fpn", seed)
    text = page([*RUNS, replace(reported, data=replace(reported.data, split=split))])
    assert text.count("**Warning.**") == 1
    assert f"> **Warning.** Tuning and reported runs both use the {shared}" in text


def test_runs_that_cannot_be_compared_are_a_warning(page):
    text = page([replace(RUNS[0], train=Train(steps=800, total_batch=8, lr=0.004)), *RUNS[1:]])
    assert "> **Warning.** table1: the tuning runs differ in data, split, steps or batch" in text
    assert (
        "tuning/table1/lr0.002/f_finest seed 100: the run used learning rate 0.004, not the rate in its name." in text
    )


@pytest.mark.parametrize("name", ["tuning/table1/0.002", "tuning/table1/lrfast", "tuning/table9/lr0.002", "tuning/lr1"])
def test_a_name_without_table_and_learning_rate_is_rejected(name, page):
    wrong = replace(RUNS[0], experiment=replace(RUNS[0].experiment, table=name))
    with pytest.raises(InputError, match=rf"{name}/f_finest seed 100: experiment\.table: .*tuning/table1/lr0\.006"):
        page([wrong])


def test_the_command_writes_the_page(tmp_path: Path, page):
    save_runs(RUNS, tmp_path / "runs")
    assert command.main(["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports")]) == 0
    assert (tmp_path / "reports/mini/tuning.md").read_text(encoding="utf-8") == page(RUNS)
    assert write("mini", [], tmp_path) is None

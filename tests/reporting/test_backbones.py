"""The comparison of trunks, on records whose gains a person can check."""

from __future__ import annotations

from pathlib import Path

from fpn_lightning.reporting import __main__ as command
from fpn_lightning.reporting.backbones import page, trunks, write
from fpn_lightning.runs.record import Experiment


def records(make_record):
    values = {("narrow_resnet", "a_conv4"): (0.20, 0.22), ("narrow_resnet", "c_fpn"): (0.30, 0.34)}
    values |= {("mobilenet_v2", "a_conv4"): (0.25, 0.25), ("mobilenet_v2", "c_fpn"): (0.24, 0.27)}
    return [
        make_record(
            experiment=Experiment(table=f"backbones/{trunk}", row=row, preset="mini", seed=seed),
            metrics={"AR100": value, "AR100_s": None},
        )
        for (trunk, row), seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def test_gains_are_paired_by_seed(make_record):
    by_name = {trunk.name: trunk for trunk in trunks(records(make_record))}
    assert [round(gain, 6) for gain in by_name["narrow_resnet"].gains("AR100")] == [10, 12]
    assert [round(gain, 6) for gain in by_name["mobilenet_v2"].gains("AR100")] == [-1, 2]
    assert by_name["mobilenet_v2"].gains("AR100_s") == []


def test_page_shows_means_spreads_and_doubt(make_record):
    text = page("mini", trunks(records(make_record)))
    narrow = next(line for line in text.splitlines() if line.startswith("| narrow_resnet"))
    # 20 and 22: mean 21, spread 1.41; 30 and 34: mean 32, spread 2.83
    assert "21.0 ± 1.4" in narrow
    assert "32.0 ± 2.8" in narrow
    assert "+11.0" in narrow
    assert "mobilenet_v2 -1.0 to +2.0 (not of one sign)" in text
    assert "narrow_resnet +10.0 to +12.0." in text


def test_a_design_without_its_counterpart_is_left_out(make_record):
    only_fpn = [record for record in records(make_record) if record.experiment.row == "c_fpn"]
    assert trunks(only_fpn) == []


def test_command_writes_the_page(make_record, tmp_path: Path):
    for record in records(make_record):
        record.save(tmp_path / "runs" / record.experiment.path / "metrics.json")
    arguments = ["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports")]
    assert command.main(arguments) == 0
    written = (tmp_path / "reports" / "mini" / "backbones.md").read_bytes()
    assert command.main(arguments) == 0
    assert (tmp_path / "reports" / "mini" / "backbones.md").read_bytes() == written
    assert write("mini", [], tmp_path) is None

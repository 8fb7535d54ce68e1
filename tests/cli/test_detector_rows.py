"""Rows of Tables 3, 4 and 5 and their steps, at the paper's scale and with preset mini."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_config import flat, printed
from tests.command_line import REPOSITORY

CONFIGS = REPOSITORY / "configs"
ROWS = sorted(path for table in ("table3", "table4", "table5") for path in (CONFIGS / table).rglob("*.yaml"))
STEPS = sorted((CONFIGS / "table5" / "steps").glob("*.yaml"))


def name(path: Path) -> str:
    """Table and row of a file, ``table5/steps/r101_rpn``."""
    return str(path.relative_to(CONFIGS).with_suffix(""))


def resolved(cli, capsys, row: str, *options: str) -> dict:
    return flat(printed(cli, capsys, "fit", "--config", str(CONFIGS / f"{row}.yaml"), *options))


def difference(left: dict, right: dict) -> dict[str, tuple]:
    """Keys whose values differ, without ``experiment``."""
    keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return {key: (left.get(key), right.get(key)) for key in keys if not key.startswith("experiment.")}


@pytest.mark.parametrize("step", STEPS, ids=name)
def test_every_step_parses_and_names_itself(cli, capsys, step):
    config = resolved(cli, capsys, name(step))
    assert (config["experiment.table"], config["experiment.row"]) == ("table5/steps", step.stem)
    lines = step.read_text().splitlines()
    assert len(lines) <= 25
    assert any(line.startswith(f"# python train.py fit --config configs/{name(step)}.yaml") for line in lines)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_row_parses_with_preset_mini(cli, capsys, row):
    config = resolved(cli, capsys, name(row), "--preset", "mini")
    # ResNet-50 and ResNet-101 are the preset's backbone and a deeper one.
    blocks = config["model.init_args.detector.backbone.init_args.blocks"]
    assert blocks == ([0, 1, 3, 1] if "r101" in row.stem else [0, 1, 1, 1])
    assert config["trainer.max_steps"] == (1000 if row.stem.endswith("rpn") else 3000)
    assert config["model.init_args.optimization.schedule_factor"] == (2 if row.parent.name == "table4" else 1)


@pytest.mark.parametrize("row", ["table3/c_fpn", "table5/r50_unshared"])
def test_a_model_that_the_paper_prints_twice_is_one_row(cli, capsys, row):
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", str(CONFIGS / f"{row}.yaml"))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"{row} is the same model as table2/c_fpn. Run table2/c_fpn, whose records are used for both rows: " in error
    assert f"--config {CONFIGS / 'table2' / 'c_fpn.yaml'}, or make row ROW=table2/c_fpn" in error


def test_baselines_of_table_3_differ_from_those_of_table_2_in_their_proposals_only(cli, capsys):
    for row in ("a_conv4", "b_conv5"):
        assert difference(resolved(cli, capsys, f"table2/{row}"), resolved(cli, capsys, f"table3/{row}")) == {}
        assert resolved(cli, capsys, f"table3/{row}")["experiment.proposals_of"] == f"table1/{row}"
        assert resolved(cli, capsys, f"table2/{row}")["experiment.proposals_of"] == "table1/c_fpn"


def test_rows_of_tables_4_and_5_differ_in_backbone_schedule_and_sharing(cli, capsys):
    backbone, frozen = "model.init_args.detector.backbone.init_args.name", "model.init_args.freeze_shared"
    unshared = resolved(cli, capsys, "table2/c_fpn")
    r101 = resolved(cli, capsys, "table5/r101_unshared")
    assert difference(unshared, r101) == {backbone: ("resnet50", "resnet101")}
    assert difference(unshared, resolved(cli, capsys, "table5/r50_shared")) == {frozen: (False, True)}
    assert difference(r101, resolved(cli, capsys, "table5/r101_shared")) == {frozen: (False, True)}
    twice = {"model.init_args.optimization.schedule_factor": (1, 2)}
    assert difference(r101, resolved(cli, capsys, "table4/fpn_r101")) == twice
    rpn = resolved(cli, capsys, "table1/c_fpn")
    assert difference(rpn, resolved(cli, capsys, "table5/steps/r50_shared_rpn")) == {frozen: (False, True)}
    r101_rpn = resolved(cli, capsys, "table5/steps/r101_rpn")
    assert difference(rpn, r101_rpn) == {backbone: ("resnet50", "resnet101")}
    assert difference(r101_rpn, resolved(cli, capsys, "table5/steps/r101_shared_rpn")) == {frozen: (False, True)}

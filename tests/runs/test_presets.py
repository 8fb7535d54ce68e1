"""``--preset`` becomes files on the command line, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fpn_lightning.errors import InputError
from fpn_lightning.runs.presets import STAGES, config_folder, expand_preset, preset_files
from tests.command_line import REPOSITORY

ROW, PRESETS = "configs/table1/c_fpn.yaml", "configs/presets"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def configs(*args: str) -> list[str]:
    """Files that an expanded command line reads, in order."""
    return [word.removeprefix("--config=") for word in expand_preset(args) if word.startswith("--config=")]


def test_row_preset_stage_and_row_again_then_overrides_then_values():
    row, folder = "configs/table1/f_finest.yaml", f"{PRESETS}/mini"
    files = [row, f"{folder}.yaml", f"{folder}/rpn.yaml", f"{folder}/table1/f_finest.yaml", "configs/wandb.yaml"]
    expected = ["fit", *(f"--config={file}" for file in files), "--seed_everything", "1", "--print_config"]
    rest = ["--seed_everything", "1", "--print_config"]
    given = ["--config", row, "--config", "configs/wandb.yaml"]
    assert expand_preset(["fit", *given, "--preset", "mini", *rest]) == expected
    # In any order and spelling.
    assert expand_preset(["fit", "--preset=mini", *rest, *given]) == expected
    assert expand_preset(["fit", *rest[:2], f"--config={row}", *rest[2:], *given[2:], "--preset", "mini"]) == expected
    assert expand_preset(["fit", "-c", row, "--preset", "mini", *given[2:], *rest]) == expected


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_every_stage_has_its_part(subcommand):
    rows = {"table1/c_fpn": "rpn", "table2/c_fpn": "fast_rcnn", "table3/joint_fpn": "faster_rcnn"}
    for row, stage in {**rows, "table6/dual": "mask_proposals"}.items():
        read = configs(subcommand, "--config", f"configs/{row}.yaml", "--preset", "mini")
        assert read == [f"configs/{row}.yaml", f"{PRESETS}/mini.yaml", f"{PRESETS}/mini/{stage}.yaml"]
    assert configs("fit", "--config", ROW, "--preset", "8gpu") == [ROW, f"{PRESETS}/8gpu.yaml"]


def test_every_stage_of_the_rows_and_every_part_of_a_preset_is_known():
    classes = {
        yaml.safe_load(file.read_text())["model"]["class_path"].rpartition(".")[2]
        for file in Path("configs").glob("table*/**/*.yaml")
    }
    assert classes == set(STAGES)
    for part in Path(PRESETS).glob("*/*.yaml"):
        assert part.stem in STAGES.values()
    for part in Path(PRESETS).glob("*/*/**/*.yaml"):
        assert Path("configs", *part.parts[3:]).is_file(), part


def test_without_a_preset_configs_come_before_single_values():
    steps = ["--trainer.max_steps", "3"]
    expanded = expand_preset(["fit", *steps, "--config", ROW, "--config=configs/wandb.yaml"])
    assert expanded == ["fit", f"--config={ROW}", "--config=configs/wandb.yaml", *steps]
    for args in (["fit", '--config={"trainer": {"max_steps": 3}}'], ["--help"], []):
        assert expand_preset(args) == args
    assert configs("fit", "--config", ROW, "--preset", "paper") == [ROW]
    assert expand_preset(["fit", "--help", "--preset", "mini"]) == ["fit", "--help"]


def test_a_users_row_has_the_presets_above_it_or_those_of_the_working_directory(tmp_path):
    own = tmp_path / "mine" / "table9" / "row.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("model: {class_path: fpn_lightning.RPNStage}\nexperiment: {table: table9, row: row}\n")
    assert preset_files(own, "mini") == [Path(PRESETS, "mini.yaml"), Path(PRESETS, "mini/rpn.yaml")]
    presets = tmp_path / "mine" / "presets"
    (presets / "tiny" / "table9").mkdir(parents=True)
    expected = [presets / "tiny.yaml", presets / "tiny" / "table9" / "row.yaml"]
    for file in (*expected, presets / "tiny" / "fast_rcnn.yaml"):
        file.write_text("trainer: {max_steps: 3}\n")
    assert config_folder(own) == tmp_path / "mine"
    assert preset_files(own, "tiny") == expected
    with pytest.raises(InputError, match=r"/mine/presets/mini.yaml does not exist. The presets are: paper, tiny$"):
        preset_files(own, "mini")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--preset", "huge"],
            r"^--preset huge: configs/presets/huge.yaml does not exist\. The presets are: paper, 1gpu, 8gpu, ",
        ),
        (["--preset", "mini/rpn"], r"The presets are: paper, 1gpu"),
        (["--preset", "mini", "--preset", "8gpu"], r"--preset is given 2 times \(mini, 8gpu\)\. Give only one"),
        (["--preset"], "--preset needs a value"),
        (["--preset", "--print_config"], "--preset needs a value"),
        (["--config", f"{PRESETS}/mini.yaml"], r"^--config configs/presets/mini.yaml is a file .* give --preset mini,"),
        (["--config", f"{PRESETS}/mini/rpn.yaml"], "is a file of a preset: give --preset mini, "),
        (["--config", "configs/nothing.yaml"], "nothing.yaml does not exist.* are: learning_curves, quickstart, wandb"),
    ],
)
def test_wrong_arguments_after_a_row_are_named(args, message):
    with pytest.raises(InputError, match=message):
        expand_preset(["fit", "--config", ROW, *args])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("configs/table1/g_nothing.yaml", r"table1/g_nothing.yaml does not exist.* are: a_conv4, b_conv5, c_fpn, "),
        ("configs/table7/c_fpn.yaml", r"table7/c_fpn.yaml does not exist. The tables in configs are: figure1, "),
        ("nowhere/table1/c_fpn.yaml", r"The tables in configs are: figure1, table1, .*, table5/steps, table6$"),
        ("configs/table3/c_fpn.yaml", r"--config configs/table2/c_fpn.yaml, or make row ROW=table2/c_fpn$"),
        (
            "configs/table5/r50_unshared.yaml",
            r"table5/r50_unshared is the same model as table2/c_fpn\. Run table2/c_fpn",
        ),
        ("configs/presets/mini.yaml", "--config configs/presets/mini.yaml is a file of a preset: give --preset mini"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--preset", "mini"]])
def test_a_missing_row_is_named_with_those_that_exist(row, message, more):
    with pytest.raises(InputError, match=message):
        expand_preset(["fit", "--config", row, *more])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment: {preset: 8gpu}", "already contains the values of preset 8gpu: leave out --preset mini$"),
        ("wandb: {enabled: true}", "has no model.class_path, so it does not describe a row of a table"),
        ("model: [", "is not YAML: "),
    ],
)
def test_a_first_config_that_is_not_a_row_is_named(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        expand_preset(["fit", "--config", str(file), "--preset", "mini"])
    with pytest.raises(InputError, match=r"--preset mini needs a row\. Give its file"):
        expand_preset(["fit", "--preset", "mini"])

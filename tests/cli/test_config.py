"""Every YAML parses, mistakes are named, and presets and overrides keep the defaults of base.yaml."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml

from fpn_lightning.runs.directory import ExperimentOptions, run_directory
from tests.command_line import REPOSITORY, ROW

ROWS = sorted(
    path
    for pattern in ("table*/*.yaml", "figure*/*.yaml", "quickstart.yaml")
    for path in (REPOSITORY / "configs").glob(pattern)
)
PRESETS = sorted(path.stem for path in (REPOSITORY / "configs" / "presets").glob("*.yaml"))
LIGHTNINGS = ("Seed set to", "GPU available", "TPU available", "HPU available")
SCALES = [("--preset", preset) for preset in PRESETS] + [("--config", str(REPOSITORY / "configs" / "wandb.yaml"))]


def printed(cli, capsys, *args: str) -> dict:
    with pytest.raises(SystemExit) as stop:
        cli(*args, "--print_config")
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("row", ROWS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_row_parses_and_names_itself(cli, capsys, row: Path):
    config = printed(cli, capsys, "fit", "--config", str(row))
    header = row.read_text().splitlines()
    assert header[0].startswith("#")
    assert any(
        line.startswith(f"# python train.py fit --config configs/{row.relative_to(REPOSITORY / 'configs')}")
        for line in header
    )
    assert len(header) <= 25 or row.name == "quickstart.yaml"
    if row.name != "quickstart.yaml":
        assert (config["experiment"]["table"], config["experiment"]["row"]) == (row.parent.name, row.stem)


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: Path(scale[1]).stem)
def test_every_preset_and_override_parses_over_a_row(cli, capsys, scale: tuple[str, str]):
    row, both = (printed(cli, capsys, "fit", "--config", str(ROW), *extra) for extra in ((), scale))
    assert both != row
    # A preset never changes which maps feed which head.
    for key in ("pyramid", "anchors"):
        assert both["model"]["init_args"]["detector"][key] == row["model"]["init_args"]["detector"][key]
    assert both["checkpoint"]["save_last"] is True
    assert both["trainer"]["use_distributed_sampler"] is False


def test_the_row_itself_holds_the_papers_numbers(cli, capsys):
    config = printed(cli, capsys, "fit", "--config", str(ROW))
    model, optimization = config["model"]["init_args"]["detector"], config["model"]["init_args"]["optimization"]
    assert config["trainer"]["max_steps"] == 40_000
    assert config["data"]["total_batch_size"] == 16
    assert config["data"]["short_side"] == 800
    assert (optimization["lr"], optimization["momentum"], optimization["weight_decay"]) == (0.02, 0.9, 1e-4)
    assert optimization["milestones"] == [30_000]
    assert model["backbone"]["init_args"]["name"] == "resnet50"
    assert model["channels"] == 256
    assert model["scale"]["base_anchor_size"] == 32
    assert model["rpn"]["init_args"]["batch_size_per_image"] == 256


def complaint(cli, capsys, *args: str) -> str:
    """What the command line writes to standard error before it ends with status 2: one line."""
    with pytest.raises(SystemExit) as stop:
        cli(*args)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(LIGHTNINGS)]
    assert len(line) < 600
    return line


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--data.rooot", "x"), "data.rooot: there is no such key; did you mean data.root?"),
        (("--nothing", "x"), "nothing: there is no such key. --help lists the keys."),
        (
            ("--model.detector.chanels", "8"),
            "model.detector.chanels: there is no such key; did you mean model.detector.channels?",
        ),
        (
            ("--model.detector.rpn.nms_tresh", "0.5"),
            "model.detector.rpn.nms_tresh: there is no such key; did you mean model.detector.rpn.nms_thresh?",
        ),
        (("--trainer.max_stepz", "1"), "trainer.max_stepz: there is no such key; did you mean trainer.max_steps?"),
        (
            ("--config", "{trainer: {max_stepz: 1}}"),
            "trainer.max_stepz: there is no such key; did you mean trainer.max_steps?",
        ),
        (
            ("--config", "{model: {init_args: {detector: {chanels: 3}}}}"),
            "model.detector.chanels: there is no such key; did you mean model.detector.channels?",
        ),
        (
            ("--model.optimization.optimizer", "adam"),
            "model.optimization.optimizer: adam does not fit. Give 'sgd', 'adamw' or null.",
        ),
        (("--data.short_side", "wide"), "data.short_side: wide does not fit. Give int or list."),
        (("--trainer.max_steps", "many"), "trainer.max_steps: many does not fit. Give int."),
        (
            ("--trainer.callbacks", "Foo"),
            "trainer.callbacks: Foo does not fit. Give list, the path of a class or null.",
        ),
        (
            ("--trainer.callbacks", "[{class_path: EarlyStoping}]"),
            "trainer.callbacks: [{'class_path': 'EarlyStoping'}] is not a Callback. Give the import path of a class.",
        ),
        (
            ("--trainer.callbacks", "lightning.pytorch.callbacks.EarlyStoping"),
            "trainer.callbacks: module 'lightning.pytorch.callbacks' has no attribute 'EarlyStoping'; did you mean "
            "lightning.pytorch.callbacks.EarlyStopping?",
        ),
        (
            ("--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitr: val/AP}}]"),
            "trainer.callbacks.monitr: there is no such key; did you mean trainer.callbacks.monitor?\n",
        ),
        (("--seed_everything", "one"), "seed_everything: one does not fit. Give bool or int."),
        (
            ("--seed_everything", "-1"),
            "seed_everything is -1: give a number from 0 to 2^32 - 1, which becomes a part of the folder's name.",
        ),
        (
            ("--trainer.precision", "bf17"),
            "trainer.precision: bf17 does not fit. Give int, 'transformer-engine', 'transformer-engine-float16', "
            "'16-true', '16-mixed', 'bf16-true', 'bf16-mixed', '32-true', '64-true', '64', '32', '16', 'bf16' or null.",
        ),
        (
            ("--model", "fpn_lightning.RPNStag"),
            "model: module 'fpn_lightning' has no attribute 'RPNStag'; did you mean fpn_lightning.RPNStage?",
        ),
        (
            ("--model.detector.backbone", "fpn_lightning.models.backbones.ResNetBackbon"),
            "model.detector.backbone: module 'fpn_lightning.models.backbones' has no attribute 'ResNetBackbon'; "
            "did you mean fpn_lightning.models.backbones.ResNetBackbone?",
        ),
        (
            ("--model.detector.pyramid", "fpn_lightning.models.pyramids.FPNN"),
            "model.detector.pyramid: module 'fpn_lightning.models.pyramids' has no attribute 'FPNN'; "
            "did you mean fpn_lightning.models.pyramids.FPN?",
        ),
        (("--config", "{trainer: ["), "--config is not YAML: while parsing a flow node"),
        (("--config", "{trainer: foo}"), "trainer: Unable to load config 'foo'"),
        (("--trainer.max_steps",), "argument --trainer.max_steps: expected one argument"),
    ],
    ids=lambda value: value[0].removeprefix("--") if isinstance(value, tuple) else "",
)
def test_misspelt_keys_and_values_are_named_in_one_line(cli, capsys, wrong, message):
    line = complaint(cli, capsys, "fit", "--config", str(ROW), "--preset", "mini", *wrong)
    assert f"{line}\n".startswith(f"error: {message}")


def test_null_on_the_command_line_is_null_at_any_depth(cli, capsys):
    row = REPOSITORY / "configs" / "table3" / "joint_fpn.yaml"
    nulls = ("--model.detector.rpn", "null", "--model.init_from", "null")
    init_args = printed(cli, capsys, "fit", "--config", str(row), *nulls)["model"]["init_args"]
    assert init_args["detector"]["rpn"] is None
    assert init_args["init_from"] is None


def test_the_configuration_of_an_older_run_is_recognised(cli, capsys, tmp_path):
    old = tmp_path / "config.yaml"
    stage = "{class_path: fpn_lightning.RPNStage, init_args: {backbone: a.B, pyramid: a.P}}"
    old.write_text(f"model: {stage}\nexperiment: {{table: table1, row: c_fpn}}\n")
    line = complaint(cli, capsys, "validate", "--config", str(old), "--ckpt_path", "last")
    assert "config.yaml: model.init_args.backbone: this is the configuration of an older run" in line
    assert "--config configs/table1/c_fpn.yaml" in line


@pytest.mark.parametrize("suffix", [".yaml", ".conf"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{" * 5000, "is nested too deeply"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 12)), "100,000 values"),
        (
            "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 12)),
            "100,000 values",
        ),
        ("a: &a [*a]", "100,000 values"),
        (b"# \xa7 5.1\ntrainer: {max_steps: 3}", "is not YAML: 'utf-8' codec"),
        ("trainer: {max_steps: 2020-99-99}", "month must be in 1..12"),
    ],
    ids=["deep", "aliases", "merges", "circle", "latin", "date"],
)
def test_hostile_yaml_ends_in_one_line_within_seconds(cli, capsys, tmp_path, text, message, suffix):
    file = tmp_path / f"config{suffix}"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    line = complaint(cli, capsys, "fit", "--config", str(ROW), "--config", str(file))
    assert message in line
    assert time.process_time() - start < 5  # an expanded alias bomb would take hours


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + ".yaml", "no.conf", "."])
def test_a_config_that_is_no_file_is_named(cli, capsys, name):
    assert name in complaint(cli, capsys, "fit", "--config", str(ROW), "--config", name)


def test_presets_and_overrides_name_their_command(cli, capsys):
    folder = REPOSITORY / "configs"
    overrides = [folder / "wandb.yaml", *folder.glob("tuning/**/*.yaml")]
    for file in [*folder.glob("presets/**/*.yaml"), *folder.glob("backbones/*.yaml"), *overrides]:
        header = file.read_text()
        wanted = f"--config {file.relative_to(REPOSITORY)}"
        if "presets" in file.parts:
            wanted = f" --preset {file.relative_to(folder / 'presets').parts[0].removesuffix('.yaml')}"
        assert re.search("# python train.py fit --config configs/(table|zoo)", header), file
        assert wanted in header, file


def test_a_run_without_a_table_and_a_row_is_named_after_its_file(cli, capsys, tmp_path):
    content = yaml.safe_load(ROW.read_text())
    del content["experiment"]
    own = tmp_path / "cells.yaml"
    own.write_text(yaml.safe_dump(content))
    for names, folder in (
        ([], "runs/paper/own/cells/seed0"),
        (["--experiment.row", "fish"], "runs/paper/own/fish/seed0"),
        (["--experiment.variant", "lr0.002", "--seed_everything", "3"], "runs/paper/own/cells/lr0.002/seed3"),
    ):
        config = printed(cli, capsys, "fit", "--config", str(own), *names)
        assert run_directory(ExperimentOptions(**config["experiment"]), config["seed_everything"]) == folder
    assert "experiment.variant '../x' cannot be" in complaint(
        cli, capsys, "fit", "--config", str(own), "--experiment.variant", "../x"
    )


def test_a_run_needs_a_name(cli, capsys):
    with pytest.raises(SystemExit) as stop:
        cli(
            "fit",
            "--model",
            "fpn_lightning.RPNStage",
            "--model.detector.backbone",
            "fpn_lightning.models.backbones.NarrowResNet",
        )
    assert stop.value.code == 2
    assert "experiment.table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--data.root", "nowhere"), "nowhere"),
        (("--experiment.preset", "my preset"), "experiment.preset"),
        (("--seed_everything", "-1"), "seed_everything"),
        (("--seed_everything", str(2**32)), "seed_everything is 4294967296: give a number from 0 to 2^32 - 1"),
        (("--trainer.max_steps", "0"), "trainer.max_steps is 0, so nothing would be trained"),
        (("--trainer.max_epochs", "0"), "trainer.max_epochs is 0"),
        (("--trainer.limit_train_batches", "0"), "trainer.limit_train_batches is 0"),
        (("--data.num_workers", "-1"), "data.num_workers is -1"),
        (("--data.short_side", "0"), "data.short_side is [0]; it has to be at least 1 px"),
        (("--ckpt_path", "elsewhere.ckpt"), "fit only resumes its own run"),
        (("--trainer.accumulate_grad_batches", "3"), "trainer.accumulate_grad_batches"),
        (("--trainer.accelerator", "gpu"), "trainer.accelerator gpu, "),
        (("--trainer.accelerator", "abacus"), "trainer.accelerator abacus, "),
        (("--trainer.devices", "-2"), "trainer.devices -2, "),
        (("--trainer.strategy", "none"), "trainer.strategy none"),
        (
            ("--trainer.precision", "16-true"),
            "trainer.precision is 16-true. Use 32-true, 16-mixed, bf16-mixed or bf16-true.",
        ),
        (("--model.optimization.lr", "-1"), "model.optimization.lr is -1.0; it cannot be negative"),
        (("--trainer.val_check_interval", "0"), "trainer.val_check_interval is 0"),
        (("--data.train_split", "../train"), "split '../train' is not the name of a folder"),
        (("--data.num_classes", "80"), "data.num_classes"),
        (("--data.batch_size_per_device", "3"), "data.batch_size_per_device"),
        (("--model.detector.anchors.octaves", "[[0], [1]]"), "anchors.octaves"),
        (("--model.detector.backbone.norm", "group", "--model.detector.backbone.blocks", "[0, 0, 1, 1]"), "blocks"),
        (("--model.init_from", "nowhere.ckpt"), "nowhere.ckpt"),
    ],
)
def test_bad_settings_end_in_one_clear_message(cli, arguments, run, capsys, wrong, message):
    with pytest.raises(SystemExit) as stop:
        cli("fit", *arguments, *wrong)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (run / "metrics.json").exists()


def flat(value, prefix: str = "") -> dict[str, object]:
    """A nested mapping as ``{"a.b": value}``; class paths without their module."""
    if isinstance(value, dict):
        items = (flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items())
        return {key: leaf for item in items for key, leaf in item.items()}
    is_class = prefix.endswith("class_path") and isinstance(value, str)
    return {prefix: value.rpartition(".")[2] if is_class else value}


def test_rows_of_table_1_and_figure_1_differ_from_fpn_only_as_listed(cli, capsys):
    # After an intended change, write print(yaml.safe_dump(found)) to row_differences.yaml.
    reference = flat(printed(cli, capsys, "fit", "--config", str(ROW)))
    found = {}
    for row in ROWS:
        if row.parent.name not in ("table1", "figure1") or row == ROW:
            continue
        config = flat(printed(cli, capsys, "fit", "--config", str(row)))
        found[f"{row.parent.name}/{row.stem}"] = {
            key: [reference.get(key), config.get(key)]
            for key in sorted(reference.keys() | config.keys())
            if reference.get(key) != config.get(key) and key not in ("experiment.table", "experiment.row")
        }
    assert found == yaml.safe_load(Path(__file__).with_name("row_differences.yaml").read_text())
    # Reports use records of Table 1 for these rows of Figure 1, so they have to be the same models.
    assert found["figure1/b_single_map"] == found["table1/a_conv4"]
    assert found["figure1/c_hierarchy"] == found["table1/d_bottom_up"]
    assert found["figure1/d_fpn"] == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {init_args: {optimization: {lrr: 0.1}}}", "model.optimization.lrr: there is no such key"),
        ("trainer: {max_steps: five}", "trainer.max_steps: five does not fit"),
        ("data: {num_workers: -1}", "data.num_workers is -1"),
    ],
)
def test_a_mistake_in_one_of_several_files_names_the_file(cli, capsys, tmp_path, content, message):
    for name, text in (("wrong.yaml", content), ("right.yaml", "data: {seed: 1}")):
        (tmp_path / name).write_text(text)
    files = [word for name in ("wrong.yaml", "right.yaml") for word in ("--config", str(tmp_path / name))]
    key = message.partition(":")[0].partition(" ")[0]
    wrong = content.rpartition(" ")[2].strip("}")
    row = ["fit", "--config", str(ROW), "--preset", "mini"]
    for given, named in ((files, f"error: {tmp_path / 'wrong.yaml'}: {message}"), ([f"--{key}", wrong], message)):
        with pytest.raises(SystemExit):
            cli(*row, *given)
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(named) or last.startswith(f"error: {named}"), last

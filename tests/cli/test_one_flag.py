"""``--preset`` on the command line, the runs that a row names, and saved configurations, which need neither."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from tests.cli.test_config import printed
from tests.command_line import REPOSITORY, ROW, read_log, read_metrics, weights

CONFIGS = REPOSITORY / "configs"


def test_layers_are_read_in_order(cli, capsys, tmp_path):
    override = tmp_path / "override.yaml"
    override.write_text("trainer: {max_steps: 7, log_every_n_steps: 3}\n")
    row = ("--config", str(CONFIGS / "table1" / "f_finest.yaml"))
    # A value wins even if it comes before the row.
    given = ("--trainer.log_every_n_steps", "2", *row, "--config", str(override), "--preset=mini")
    config = printed(cli, capsys, "fit", *given)
    assert config["experiment"]["preset"] == "mini"
    assert config["trainer"]["use_distributed_sampler"] is False  # base
    assert config["model"]["init_args"]["detector"]["pyramid"]["class_path"].endswith("FinestLevel")  # row
    assert config["data"]["short_side"] == 160  # preset
    assert config["model"]["init_args"]["detector"]["rpn"]["init_args"]["loc_weight"] == 2.0  # its part for the stage
    assert config["model"]["init_args"]["optimization"]["lr"] == 0.002  # its part for the row
    assert (config["trainer"]["max_steps"], config["trainer"]["log_every_n_steps"]) == (7, 2)
    assert "preset" not in config


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_every_subcommand_has_the_flag_and_says_so(cli, capsys, subcommand):
    config = printed(cli, capsys, subcommand, "--config", str(ROW), "--preset", "mini")
    assert config["model"]["init_args"]["detector"]["rpn"]["init_args"]["loc_weight"] == 2.0
    with pytest.raises(SystemExit) as stop:
        cli(subcommand, "--help")
    assert stop.value.code == 0
    assert "--preset NAME" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--config", "configs/presets/mini.yaml"), "give --preset mini, which reads all files"),
        (("--preset", "huge"), "The presets are: paper, 1gpu, 8gpu, finetune, mini, modern, small, small_gpu, smoke"),
        (("--pres", "mini"), "write --preset in full"),
    ],
)
def test_mistakes_are_one_line(cli, capsys, monkeypatch, args, message):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", str(ROW), *args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_saved_configuration_reproduces_its_run(cli, arguments, run, capsys):
    cli("fit", *arguments, "--seed_everything", "5")
    run = run.with_name("seed5")
    config, record = (run / "config.yaml").read_bytes(), json.loads((run / "metrics.json").read_text())
    before, log = weights(run), read_log(run, "train/loss", "train/lr")
    saved = run.parents[4] / "saved.yaml"
    saved.write_bytes(config)
    cli("fit", "--config", str(saved), "--experiment.overwrite", "true")
    assert (run / "config.yaml").read_bytes() == config
    assert read_metrics(run / "metrics.json") == record["metrics"]
    assert json.loads((run / "metrics.json").read_text())["config_sha256"] == record["config_sha256"]
    assert read_log(run, "train/loss", "train/lr") == log
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli("validate", "--config", str(run / "config.yaml"), "--preset", "mini", "--ckpt_path", "last")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{run / 'config.yaml'} already contains the values of preset mini: leave out --preset mini" in error


def test_a_row_takes_the_weights_that_it_names(cli, arguments, tmp_path, capsys):
    row = CONFIGS / "table5" / "steps" / "r50_shared_rpn.yaml"
    third = ["--config", str(row), *arguments[2:], "--experiment.weights_of", "table1/c_fpn"]
    with pytest.raises(SystemExit) as stop:
        cli("fit", *third)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "python train.py fit --config configs/table1/c_fpn.yaml --preset mini --seed_everything 0" in error
    assert "make row ROW=table5/steps/r50_shared_rpn PRESET=mini SEED=0" in error
    root = tmp_path / "runs" / "mini"
    assert not root.exists()

    cli("fit", *arguments, "--trainer.max_steps", "1")
    first = root / "table1" / "c_fpn" / "seed0"
    cli("fit", *third)
    run = root / "table5" / "steps" / "r50_shared_rpn" / "seed0"
    checkpoint = first / "checkpoints" / "last.ckpt"
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["init_from"] == str(checkpoint)
    assert json.loads((run / "metrics.json").read_text())["parents"][0].startswith(f"{checkpoint} sha256:")
    shared = [name for name in weights(run) if name.startswith(("backbone.", "pyramid."))]
    assert all(torch.equal(weights(run)[name], weights(first)[name]) for name in shared)

    # A run that resumes or is evaluated does not need the other run any more.
    metrics = read_metrics(run / "metrics.json")
    (run / "metrics.json").unlink()
    first.rename(first.with_name("moved"))
    cli("fit", *third, "--ckpt_path", "last")
    record = json.loads((run / "metrics.json").read_text())
    assert (record["metrics"], record["parents"]) == (metrics, [f"{checkpoint} sha256:unknown"])
    cli("validate", *third, "--ckpt_path", "last")
    assert read_metrics(run / "validate" / "metrics.json") == metrics
    with pytest.raises(SystemExit):
        cli("validate", *third)
    assert "validate needs weights" in capsys.readouterr().err

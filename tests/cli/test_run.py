"""A run is trained, evaluated, protected, overwritten and resumed."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
import yaml

from fpn_lightning.runs.record import SCHEMA
from fpn_lightning.stages.rpn import RPNStage
from tests.command_line import read_log, read_metrics, weights

LOSSES = ("train/loss_rpn_cls", "train/loss_rpn_loc", "train/lr")


def test_fit_leaves_a_complete_run_and_validate_reproduces_it(cli, arguments, run, capsys):
    cli("fit", *arguments, "--experiment.evaluate_untrained", "true")
    printed = capsys.readouterr().out.partition("written to")[0]
    untrained, _, trained = printed.partition("AR: recall of proposals, class-agnostic")
    assert untrained.splitlines()[0].strip() == "table1/c_fpn, step 0, before training"
    assert "table1/c_fpn " in trained
    assert trained.count("AR100") == untrained.count("AR100") == 1
    written = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "metrics.json", "checkpoints/last.ckpt"} <= written
    assert not [name for name in written if "tmp" in name or "/." in name]

    record = yaml.safe_load((run / "metrics.json").read_text())
    assert record["schema"] == SCHEMA
    assert record["status"] == "finished"
    assert record["experiment"] == {"table": "table1", "row": "c_fpn", "preset": "mini", "seed": 0}
    assert record["train"]["steps"] == 4
    assert record["train"]["total_batch"] == 4
    assert record["data"]["split"] == "val"
    assert record["data"]["num_images"] == 5
    assert record["area_thresholds"] == [85.0, 769.0]
    assert set(record["metrics"]) >= {"AR10", "AR100", "AR1k", "AR1k_s", "AR1k_m", "AR1k_l"}
    assert record["metrics"] != record["untrained"]
    assert record["train"]["seconds_per_step"] > 0
    assert record["eval"]["seconds_per_image"] > 0
    assert record["parameters"] == sum(
        v.numel() for k, v in weights(run).items() if "running" not in k and "num_" not in k
    )
    assert [row["step"] for row in read_log(run, *LOSSES)] == ["0", "1", "2", "3"]

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cli("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last")
    assert read_metrics(run / "validate" / "metrics.json") == record["metrics"]
    assert {path: path.read_bytes() for path in before} == before


def test_saved_config_is_complete_and_rebuilds_the_model(cli, arguments, run):
    cli("fit", *arguments)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["default_root_dir"] == str(run)
    assert config["data"]["seed"] == config["model"]["init_args"]["seed"] == 0
    assert config["model"]["init_args"]["detector"]["rpn"]["init_args"]["nms_thresh"] == 0.7
    assert config["checkpoint"]["every_n_train_steps"] == 250


def test_a_finished_run_is_kept_unless_overwrite_is_given(cli, arguments, run, capsys):
    cli("fit", *arguments)
    first = read_metrics(run / "metrics.json")
    with pytest.raises(SystemExit) as stop:
        cli("fit", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "holds a finished run" in message
    assert "--experiment.overwrite true" in message
    (run / "stale.txt").touch()
    cli("fit", *arguments, "--experiment.overwrite", "true")
    assert not (run / "stale.txt").exists()
    assert read_metrics(run / "metrics.json") == first  # the run repeats to the bit


def test_killed_and_resumed_equals_uninterrupted(cli, arguments, run, tmp_path, monkeypatch, capsys):
    arguments += ["--trainer.max_steps", "6", "--checkpoint.every_n_train_steps", "3"]
    # Two images at a time and two micro-batches a step: the position inside the stream has to be right too.
    arguments += ["--data.batch_size_per_device", "2", "--data.num_workers", "1", "--trainer.val_check_interval", "2"]
    cli("fit", *arguments, "--experiment.root", str(tmp_path / "whole"))
    whole = tmp_path / "whole" / run.relative_to(tmp_path / "runs")

    step = RPNStage.training_step

    def killed(self, batch, batch_idx):
        if self.global_step == 5:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(RPNStage, "training_step", killed)
        with pytest.raises(RuntimeError, match="power cut"):
            cli("fit", *arguments)
    with pytest.raises(SystemExit):
        cli("fit", *arguments)
    assert "--ckpt_path last" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli("fit", *arguments, "--ckpt_path", "last", "--model.optimization.lr", "1")
    error = capsys.readouterr().err
    assert "started with other values: model.init_args.optimization.lr is 1.0 and was 0.006. Continue" in error

    cli("fit", *arguments, "--ckpt_path", "last")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(run)[name]), name
    assert read_metrics(run / "metrics.json") == read_metrics(whole / "metrics.json")
    assert read_log(run, *LOSSES) == read_log(whole, *LOSSES)
    assert [row["step"] for row in read_log(run, "val/AR1k")] == ["2", "4", "6"]
    assert read_log(run, "val/AR1k") == read_log(whole, "val/AR1k")


def test_nothing_to_continue_is_an_error(cli, arguments, run, capsys):
    with pytest.raises(SystemExit) as stop:
        cli("fit", *arguments, "--ckpt_path", "last")
    assert stop.value.code == 2
    assert "last.ckpt" in capsys.readouterr().err
    assert not run.exists()


def test_accumulation_changes_nothing(cli, arguments, run, tmp_path):
    # GroupNorm, because live BatchNorm averages over the images of a micro-batch.
    arguments += ["--model.detector.backbone.norm", "group"]
    cli("fit", *arguments)
    cli("fit", *arguments, "--data.batch_size_per_device", "1", "--experiment.root", str(tmp_path / "four"))
    four = tmp_path / "four" / run.relative_to(tmp_path / "runs")
    assert read_log(four, "train/lr") == read_log(run, "train/lr")
    losses = [[float(row["train/loss"]) for row in read_log(folder, "train/loss")] for folder in (run, four)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for name, value in weights(run).items():
        assert torch.allclose(value, weights(four)[name], atol=1e-3), name


def test_another_total_batch_rescales_everything_together(cli, arguments, run):
    result = cli("fit", *arguments, "--data.total_batch_size", "8")
    optimization = result.model.optimization
    assert optimization.lr == pytest.approx(0.012)
    assert optimization.warmup_steps == 1
    assert yaml.safe_load((run / "metrics.json").read_text())["train"]["steps"] == 2


def test_a_loss_that_is_not_finite_stops_the_run(cli, arguments, run, monkeypatch, capsys):
    losses = RPNStage.losses

    def broken(self, batch):
        values = losses(self, batch)
        if self.global_step == 2:
            values["loss_rpn_loc"] = values["loss_rpn_loc"] * float("nan")
        return values

    monkeypatch.setattr(RPNStage, "losses", broken)
    with pytest.raises(SystemExit):
        cli("fit", *arguments)
    assert re.search(r"not finite at step 2, rank 0: image ids \[\d+, \d+, \d+, \d+\]", capsys.readouterr().err)
    assert not (run / "metrics.json").exists()


def test_a_gradient_that_is_not_finite_stops_the_run(cli, arguments, monkeypatch, capsys):
    losses = RPNStage.losses

    def broken(self, batch):
        values = losses(self, batch)
        weight = self.detector.rpn.heads[0].conv.weight
        # sqrt at 0: the value is 0, its gradient infinite
        values["loss_rpn_loc"] = values["loss_rpn_loc"] + (weight - weight.detach()).abs().sum().sqrt()
        return values

    monkeypatch.setattr(RPNStage, "losses", broken)
    with pytest.raises(SystemExit):
        cli("fit", *arguments)
    assert "not finite at step 0" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_or_with_other_categories_is_named(
    cli, arguments, run, tiny_data, tmp_path, capsys
):
    cli("fit", *arguments, "--trainer.max_steps", "1")
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    with pytest.raises(SystemExit):
        cli("validate", *saved, "--model.detector.channels", "16")
    error = capsys.readouterr().err
    assert "ckpt_path: the checkpoint belongs to another model than this configuration: " in error
    assert "pyramid.lateral_convs.p2.bias is (32,) in the file, (16,) in the model" in error
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    file = root / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["categories"][1]["name"] = "another"
    file.write_text(json.dumps(content))
    name = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())["categories"][1]["name"]
    with pytest.warns(UserWarning, match=rf"difference is \(\d+, '{name}'\) in the weights, \(\d+, 'another'\) in"):
        cli("validate", *saved, "--data.root", str(root))


def test_a_checkpoint_of_another_pyramid_with_equal_tensors_is_named(cli, arguments, run, capsys):
    cli("fit", *arguments, "--trainer.max_steps", "1")
    saved = ["--config", str(run / "config.yaml")]
    other = ["--model.detector.pyramid", "fpn_lightning.models.pyramids.BottomUpPyramid"]
    with pytest.raises(SystemExit):
        cli("validate", *saved, *other, "--ckpt_path", "last")
    assert "configuration: pyramid is FPN in the file, BottomUpPyramid in the model" in capsys.readouterr().err
    with pytest.warns(
        UserWarning, match="belongs to another model: pyramid is FPN in the file, BottomUpPyramid in the model"
    ):
        cli("validate", *saved, *other, "--model.init_from", str(run / "checkpoints" / "last.ckpt"))


def test_proposals_that_are_not_read_are_rejected(cli, arguments, run, capsys):
    with pytest.raises(SystemExit):
        cli("fit", *arguments, "--experiment.proposals_of", "", "--data.proposals", str(run))
    assert "but RPNStage reads no proposals: leave out data.proposals" in capsys.readouterr().err


def test_init_from_takes_only_the_weights(cli, arguments, run, tmp_path, capsys):
    cli("fit", *arguments)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    again = ["--experiment.root", str(tmp_path / "again"), "--model.init_from", checkpoint]
    result = cli("fit", *arguments, *again, "--model.optimization.lr", "0")
    assert result.trainer.global_step == 4  # training starts over; only the weights were taken
    for name, value in result.model.detector.named_parameters():
        assert torch.equal(value, weights(run)[name]), name
    record = yaml.safe_load((result.run / "metrics.json").read_text())
    assert record["parents"][0].startswith(f"{checkpoint} sha256:")
    # validation takes weights in the same way, and needs some
    cli("validate", *arguments, "--model.init_from", checkpoint)
    assert read_metrics(run / "validate" / "metrics.json") == read_metrics(run / "metrics.json")
    with pytest.raises(SystemExit):
        cli("validate", *arguments)
    assert "validate needs weights" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli("fit", *arguments, *again, "--model.detector.channels", "16", "--experiment.overwrite", "true")
    assert "does not fit this configuration" in capsys.readouterr().err


def test_metrics_of_a_part_of_a_split_are_marked_partial(cli, arguments, run):
    cli("fit", *arguments, "--trainer.limit_val_batches", "2")
    assert yaml.safe_load((run / "metrics.json").read_text())["status"] == "partial"
    assert not read_log(run, "val/AR100")
    assert read_log(run, "val_partial/AR100")


def test_a_mistake_does_not_block_the_directory(cli, arguments, run, capsys):
    with pytest.raises(SystemExit):
        cli("fit", *arguments, "--data.root", "nowhere")
    cli("fit", *arguments)
    assert (run / "metrics.json").exists()


def test_a_broken_checkpoint_is_named(cli, arguments, run, capsys):
    cli("fit", *arguments)
    path = run / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SystemExit) as stop:
        cli("validate", *arguments, "--ckpt_path", "last")
    assert stop.value.code == 2
    assert "last.ckpt cannot be read" in capsys.readouterr().err


def test_the_record_has_the_metrics_of_the_trained_weights(cli, arguments, run, tmp_path):
    cli("fit", *arguments)
    start = weights(run)
    again = tmp_path / "again" / run.relative_to(tmp_path / "runs")
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    options = [*arguments, "--experiment.root", str(tmp_path / "again")]
    result = cli("fit", *options, "--model.init_from", checkpoint)
    trained = weights(again)
    assert not torch.equal(trained["rpn.heads.0.conv.weight"], start["rpn.heads.0.conv.weight"])
    for name, value in result.model.detector.state_dict().items():
        assert torch.equal(value, trained[name]), name
    cli("validate", *options, "--ckpt_path", "last")
    assert read_metrics(again / "validate" / "metrics.json") == read_metrics(again / "metrics.json")


def test_no_logging_interval_logs_nothing_and_trains(cli, arguments, run):
    cli("fit", *arguments, "--trainer.log_every_n_steps", "0")
    assert read_metrics(run / "metrics.json")
    assert read_log(run, "train/loss") == []


def test_size_classes_that_are_not_cocos_are_said(cli, arguments, run, caplog, capsys):
    with caplog.at_level("INFO"):
        cli("fit", *arguments, "--trainer.max_steps", "1")
    assert "area_thresholds replaces COCO's size classes: small ≤ 85 px² ≤ medium ≤ 769 px² ≤ large" in caplog.text
    assert "size classes: small ≤ 85 px² ≤ medium ≤ 769 px² ≤ large" in capsys.readouterr().out
    cli("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last")
    assert json.loads((run / "validate" / "metrics.json").read_text())["area_thresholds"] == [85, 769]

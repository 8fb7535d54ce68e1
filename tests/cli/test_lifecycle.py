"""A run is overwritten, stopped, continued and lengthened; nothing is lost on the way."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from fpn_lightning.reporting.collection import collect, local_runs
from fpn_lightning.stages.evaluated import EvaluatedStage
from fpn_lightning.stages.rpn import RPNStage
from tests.command_line import read_log, read_metrics, weights

OVERWRITE = ("--experiment.overwrite", "true")
RESUME = ("--ckpt_path", "last")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture
def fails(cli, capsys):
    """Run a command that has to end with one line of error, and return this line."""

    def call(*args: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli(*args)
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return call


@pytest.fixture
def kill(cli, arguments, monkeypatch):
    """Start a run that dies in a step."""

    def call(at_step: int, *more: str) -> None:
        step = RPNStage.training_step

        def training_step(self, batch, batch_idx):
            if self.global_step == at_step:
                raise RuntimeError("power cut")
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(RPNStage, "training_step", training_step)
            with pytest.raises(RuntimeError, match="power cut"):
                cli("fit", *arguments, *more)

    return call


# ---- overwriting -----------------------------------------------------------------------------------------------------


def test_a_mistake_leaves_the_run_that_was_to_be_overwritten(cli, arguments, run, fails, tmp_path):
    cli("fit", *arguments)
    before = contents(run)
    own = str(run / "checkpoints" / "last.ckpt")
    mistakes = {
        ("--data.root", "nowhere"): "nowhere",
        ("--model.init_from", own): "model.init_from is .* a part of the run that --experiment.overwrite true replaces",
        ("--model.init_from", "missing.ckpt"): "missing.ckpt",
        ("--experiment.weights_of", "table1/none"): "table1/none has no finished run",
        ("--experiment.proposals_of", "table1/none"): "table1/none has no finished run and no proposals",
        ("--data.num_classes", "7"): "num_classes",
        ("--data.batch_size_per_device", "3"): "total_batch_size",
        ("--trainer.devices", "0"): "devices",
        ("--trainer.accumulate_grad_batches", "3"): "accumulate_grad_batches is 3",
    }
    for mistake, message in mistakes.items():
        assert re.search(message, fails("fit", *arguments, *OVERWRITE, *mistake)), mistake
        assert contents(run) == before, mistake
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]


def test_an_overwritten_run_is_deleted_when_the_new_one_has_finished(cli, arguments, run, kill, fails, capsys):
    cli("fit", *arguments, *OVERWRITE)  # where there is nothing to overwrite, as in make quickstart
    aside = run.with_name("seed0.replaced")
    before = contents(run)
    kill(0, *OVERWRITE)  # before the first step: the run is put back
    assert contents(run) == before
    assert not aside.exists()

    kill(3, *OVERWRITE, "--checkpoint.every_n_train_steps", "2")
    assert contents(aside) == before
    said = capsys.readouterr().err
    assert f"The earlier run was moved to {aside}" in said
    assert f"The overwritten run is in {aside}" in said
    assert f"holds an unfinished run. To continue the run: {' '.join(RESUME)}" in (error := fails("fit", *arguments))
    assert str(aside) in error
    kill(3, *OVERWRITE)  # again, without a checkpoint
    assert contents(aside) == before
    cli("fit", *arguments)
    assert not list(run.parent.glob("*replaced*"))
    assert read_metrics(run / "metrics.json") == json.loads(before["metrics.json"])["metrics"]


def test_another_process_is_kept_out_of_a_run(arguments, run, fails):
    run.mkdir(parents=True)
    handle = os.open(run, os.O_RDONLY)  # as another process holds it
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        for more in ((), OVERWRITE):
            assert f"another process trains in {run}" in fails("fit", *arguments, *more)
    finally:
        os.close(handle)


def test_a_run_that_another_process_finished_since_the_first_check_is_kept(cli, arguments, run, fails, monkeypatch):
    cli("fit", *arguments)
    before = contents(run)
    # It looked before the other run had finished.
    monkeypatch.setattr("fpn_lightning.runs.options.check_start", lambda *_: None)
    assert "holds a finished run" in fails("fit", *arguments)
    assert contents(run) == before


def test_two_processes_that_start_together_do_not_share_a_new_folder(cli, arguments, run, fails, monkeypatch):
    """The second one comes when the first has made the folder, and before that one's log has a line."""

    def second(*_: object) -> None:
        monkeypatch.undo()
        run.mkdir(parents=True)
        handle = os.open(run, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        (run / "metrics.csv").write_text("step\n")
        held.append(handle)

    held: list[int] = []
    monkeypatch.setattr("fpn_lightning.cli.check_inputs", second)
    assert f"another process trains in {run}" in fails("fit", *arguments)
    assert (run / "metrics.csv").read_text() == "step\n"
    os.close(held[0])


def test_a_run_on_another_disk_is_overwritten_there(cli, arguments, run, kill, tmp_path):
    """The folder of the run is a link."""
    cli("fit", *arguments)
    disk = tmp_path / "disk" / "seed0"
    disk.parent.mkdir()
    run.rename(disk)
    run.symlink_to(disk)
    before = contents(disk)
    kill(2, *OVERWRITE, "--checkpoint.every_n_train_steps", "1")
    assert contents(disk.with_name("seed0.replaced")) == before
    cli("fit", *arguments, *RESUME)
    assert run.is_symlink()
    assert [path.name for path in disk.parent.iterdir()] == ["seed0"]
    assert record(disk)["status"] == "finished"


def test_no_other_subcommand_writes_into_the_folder_of_a_run(cli, arguments, run, fails):
    cli("fit", *arguments, "--trainer.max_steps", "1")
    before = contents(run)
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last", "--experiment.output", str(run)]
    for subcommand in ("validate", "test"):
        assert f"experiment.output: {run} is the folder of a run" in fails(subcommand, *saved)
    assert contents(run) == before


def test_a_finished_run_survives_an_attempt_to_lengthen_it(cli, arguments, run, kill):
    cli("fit", *arguments)
    before = contents(run)
    kill(4, *RESUME, "--trainer.max_steps", "7")  # before its first step
    assert contents(run) == before
    finished = record(run)
    cli("fit", *arguments, *RESUME, "--trainer.max_steps", "7", "--trainer.limit_val_batches", "2")
    assert record(run)["status"] == "partial"
    assert json.loads((run / "metrics.earlier.json").read_text()) == finished
    cli("fit", *arguments, *RESUME, "--trainer.max_steps", "7")
    assert record(run)["status"] == "finished"
    assert not (run / "metrics.earlier.json").exists()


def test_a_run_that_fails_at_its_start_leaves_nothing(cli, arguments, run, kill):
    kill(0)
    assert not run.parent.exists()
    kill(2)  # no checkpoint, but a log
    assert len(read_log(run, "train/loss")) == 2
    cli("fit", *arguments)
    assert [row["step"] for row in read_log(run, "train/loss")] == ["0", "1", "2", "3"]


# ---- status ----------------------------------------------------------------------------------------------------------


def stop_at(step: int, monkeypatch, action) -> None:
    hook = RPNStage.on_before_optimizer_step

    def stopping(self, optimizer):
        hook(self, optimizer)
        if self.global_step + 1 == step:
            action(self.trainer)

    monkeypatch.setattr(RPNStage, "on_before_optimizer_step", stopping)


def out_of_time(trainer) -> None:
    (timer,) = (callback for callback in trainer.callbacks if type(callback).__name__ == "Timer")
    timer._duration = 0


def test_a_run_out_of_time_says_so_and_goes_on(cli, arguments, run, fails, tmp_path, monkeypatch, capsys):
    arguments += ["--trainer.max_time", "00:01:00:00"]
    with monkeypatch.context() as patch:
        stop_at(2, patch, out_of_time)
        cli("fit", *arguments)
    reason = "trainer.max_time was over after 2 of 4 steps"
    assert (record(run)["status"], record(run)["reason"], record(run)["train"]["steps"]) == ("out_of_time", reason, 2)
    assert f"not finished, so tables leave it out: out_of_time: {reason}" in capsys.readouterr().out
    kept = collect(local_runs(tmp_path / "runs"), tmp_path / "records")
    assert (kept.written, kept.unfinished) == ([], [f"{run} (out_of_time: {reason})"])
    assert (
        f"holds a run that is not finished (out_of_time: {reason}). To continue the run: {' '.join(RESUME)}"
        in fails("fit", *arguments)
    )

    cli("fit", *arguments, *RESUME)
    assert record(run)["status"] == "finished"
    assert "reason" not in record(run)
    assert not (run / "metrics.earlier.json").exists()
    whole = ["--experiment.root", str(tmp_path / "whole")]
    cli("fit", *arguments, *whole)
    other = tmp_path / "whole" / run.relative_to(tmp_path / "runs")
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(run).items())
    assert read_metrics(run / "metrics.json") == read_metrics(other / "metrics.json")


def test_the_time_of_earlier_calls_does_not_count(cli, arguments, run, monkeypatch):
    """A run that used up its time goes on with the same command."""
    arguments += ["--trainer.max_time", "00:01:00:00"]
    with monkeypatch.context() as patch:
        stop_at(2, patch, lambda trainer: setattr(trainer, "should_stop", True))
        result = cli("fit", *arguments)
    assert record(run)["reason"] == "training was stopped after 2 of 4 steps"
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] = 7200.0
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    del result
    cli("fit", *arguments, *RESUME)
    assert record(run)["status"] == "finished"


def test_the_best_checkpoint_has_the_weights_of_the_best_validation(cli, arguments, run, fails, monkeypatch):
    error = fails("validate", *arguments, "--ckpt_path", "best")
    assert "best.ckpt does not exist. fit writes this file only if a metric is given" in error
    arguments += ["--trainer.val_check_interval", "1", "--checkpoint.monitor", "val/AR100"]
    made_up = iter([0.1, 0.3, 0.2, 0.25])  # of steps 1 to 4; the last is not evaluated twice
    finish = EvaluatedStage._finish_evaluation

    def finished(self, prefix):
        finish(self, prefix)
        self.evaluation["AR100"] = next(made_up)

    with monkeypatch.context() as patch:
        patch.setattr(EvaluatedStage, "_finish_evaluation", finished)
        cli("fit", *arguments)
    assert (record(run)["status"], record(run)["metrics"]["AR100"]) == ("finished", 0.25)
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    result = cli("validate", *arguments, "--ckpt_path", "best")
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])
    assert not torch.equal(next(iter(weights(run).values())), next(iter(checkpoint["state_dict"].values())))
    assert "one of these metrics: val/AR" in fails("fit", *arguments, "--checkpoint.monitor", "val/APx", *OVERWRITE)
    assert record(run)["metrics"]["AR100"] == 0.25  # found before the earlier run was moved


def test_early_stopping_is_a_status_with_its_reason(cli, arguments, run):
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/AR1k", "mode": "max", "stopping_threshold": 0.0},
    }
    every = ["--trainer.val_check_interval", "2"]
    cli("fit", *arguments, *every, "--trainer.callbacks", json.dumps([stopping]))
    assert (record(run)["status"], record(run)["train"]["steps"]) == ("stopped_early", 2)
    assert record(run)["reason"].startswith(
        "EarlyStopping ended training after 2 of 4 steps. Stopping threshold reached"
    )
    cli("fit", *arguments, *every, *RESUME)
    assert (record(run)["status"], record(run)["train"]["steps"]) == ("finished", 4)


@pytest.mark.parametrize(
    ("option", "outcome"),
    [
        (("--trainer.fast_dev_run", "true"), "partial: trainer.fast_dev_run"),
        (("--trainer.limit_val_batches", "0"), "partial: 0 of 5 images were evaluated"),
    ],
)
def test_fit_and_tables_agree_on_a_partial_run(cli, arguments, run, fails, tmp_path, option, outcome):
    cli("fit", *arguments, *option)
    assert f"holds a run that is not finished ({outcome})" in fails("fit", *arguments)
    assert collect(local_runs(tmp_path / "runs"), tmp_path / "records").unfinished == [f"{run} ({outcome})"]
    cli("fit", *arguments, *RESUME)
    assert record(run)["status"] == "finished"
    assert collect(local_runs(tmp_path / "runs"), tmp_path / "records").unfinished == []


# ---- a finished run is lengthened ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_a_finished_run_can_be_lengthened(cli, arguments, run, fails, tmp_path, schedule, kill):
    arguments += ["--data.batch_size_per_device", "2", "--trainer.val_check_interval", "3"]
    arguments += ["--model.optimization.schedule", schedule]
    longer = ["--trainer.max_steps", "7"]
    cli("fit", *arguments)
    error = fails("fit", *arguments, *RESUME)
    assert "holds a finished run, which has taken all 4 steps of trainer.max_steps" in error
    assert "--trainer.max_steps larger than 4" in error
    error = fails("fit", *arguments, *RESUME, "--trainer.max_steps", "3")
    assert "has taken 4 steps, more than trainer.max_steps 3" in error

    finished = (run / "metrics.json").read_bytes()
    kill(4, *longer, *RESUME)  # before a step: still finished
    assert (run / "metrics.json").read_bytes() == finished
    kill(5, *longer, *RESUME)
    assert not (run / "metrics.json").exists()
    assert (run / "metrics.earlier.json").read_bytes() == finished
    cli("fit", *arguments, *longer, *RESUME)
    assert (record(run)["status"], record(run)["train"]["steps"]) == ("finished", 7)
    assert not (run / "metrics.earlier.json").exists()
    assert [row["step"] for row in read_log(run, "val/AR1k")] == ["3", "4", "6", "7"]
    lr = [float(row["train/lr"]) for row in read_log(run, "train/lr")]
    assert len(lr) == 7

    whole = tmp_path / "whole" / run.relative_to(tmp_path / "runs")
    cli("fit", *arguments, *longer, "--experiment.root", str(tmp_path / "whole"))
    assert lr[4:] == [float(row["train/lr"]) for row in read_log(whole, "train/lr")][4:]
    if schedule == "multistep":  # the first steps were the same
        assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())


# ---- resuming with other values --------------------------------------------------------------------------------------


def test_values_that_change_a_resumed_run_are_named(cli, arguments, run, kill, fails, capsys):
    kill(3, "--checkpoint.every_n_train_steps", "2")
    changes = {
        "precision": ("bf16-mixed", None),
        "gradient_clip_val": ("1.0", 5.0),
        "limit_train_batches": ("0.5", None),
    }
    for key, (value, was) in changes.items():
        error = fails("fit", *arguments, *RESUME, f"--trainer.{key}", value)
        assert f"started with other values: trainer.{key} is {value} and was {was}" in error
    with pytest.warns(UserWarning, match=r"other values: trainer\.max_steps is 5 and was 4"):
        cli("fit", *arguments, *RESUME, "--trainer.max_steps", "5", "--trainer.log_every_n_steps", "2")
    assert record(run)["train"]["steps"] == 5


def test_a_run_does_not_go_on_with_other_annotations(cli, arguments, run, kill, fails, tiny_data, tmp_path):
    kill(3, "--checkpoint.every_n_train_steps", "2")
    root = tmp_path / "moved"
    shutil.copytree(tiny_data, root)
    before = contents(run)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        text = file.read_text()
        content = json.loads(text)
        content["annotations"].pop()
        file.write_text(json.dumps(content))
        error = fails("fit", *arguments, *RESUME, "--data.root", str(root))
        assert f"data.{split}_split: the annotation file of {split} has sha256 " in error
        assert contents(run) == before
        file.write_text(text)
    cli("fit", *arguments, *RESUME, "--data.root", str(root))
    assert record(run)["status"] == "finished"


def test_a_damaged_log_is_named(cli, arguments, run, kill, fails):
    kill(3, "--checkpoint.every_n_train_steps", "2")
    log = run / "metrics.csv"
    text = log.read_text()
    for damage in (text + "garbage\n", text.replace("\n", "\n\0\0\n", 1), text + "1,a,b\n", "a" + text):
        log.write_text(damage)
        error = fails("fit", *arguments, *RESUME)
        assert f"{log} is damaged (" in error
        assert "move the file to another folder" in error
        assert log.read_text() == damage
    log.unlink()
    cli("fit", *arguments, *RESUME)
    assert record(run)["status"] == "finished"

"""Weights & Biases, offline from end to end."""

from __future__ import annotations

import json
import os
import signal
import struct
import time

import pytest
import yaml

from tests import kills
from tests.command_line import REPOSITORY, read_metrics
from tests.kills import before

pytest.importorskip("wandb")


def log_records(content: bytes):
    """Records of W&B's log: after a 7-byte header LevelDB's log format, blocks of 32 KiB, chunks with 7-byte heads."""
    position, record = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # too short for another head: padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        if position + 7 + length > len(content):  # not all of it is written yet
            return
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def complete_records(path, patience: float = 30):
    """All records of a run's log, which W&B's own process may still be writing when `finish` returns."""
    from wandb.proto import wandb_internal_pb2

    deadline = time.monotonic() + patience
    while True:
        records = [wandb_internal_pb2.Record.FromString(data) for data in log_records(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, f"{path} is not complete after {patience} s"
        time.sleep(0.1)


def offline_runs(run):
    """Details, config, summary and saved files of every offline run below a directory."""
    for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        details, config, summary, files = None, {}, {}, set()
        for record in complete_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                details = record.run
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "config":
                config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            elif kind == "summary":
                for item in record.summary.update:
                    summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
            elif kind == "files":
                files |= {item.path for item in record.files.files}
        yield details, config, summary, files


def test_two_offline_runs_in_one_directory(cli, arguments, run, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = ["--config", str(REPOSITORY / "configs" / "wandb.yaml"), "--wandb.offline", "true"]
    cli("fit", *arguments, *wandb)
    identity = (run / "wandb_id").read_text()
    ((details, config, summary, files),) = offline_runs(run)
    assert (details.run_group, details.display_name, details.project) == ("table1", "c_fpn mini seed0", "fpn-lightning")
    assert set(details.tags) == {"table1", "c_fpn", "mini", "seed0"}
    assert details.run_id == identity

    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: config[key] for key in saved} == saved
    metrics = read_metrics(run / "metrics.json")
    assert {key: summary[key] for key in metrics} == metrics
    assert "metrics.json" in files

    cli("fit", *arguments, *wandb, "--experiment.overwrite", "true")
    assert read_metrics(run / "metrics.json") == metrics


def points(run) -> list[tuple[int, str, float]]:
    """Step, name and value of every point that all offline runs below a directory hold, sorted."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in run.glob("wandb/offline-run-*/run-*.wandb"):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            points = {name: value for name, value in values.items() if name.startswith(("train/", "val/"))}
            found += [
                (values["trainer/global_step"], *point) for point in points.items() if point[0] not in kills.MEASURED
            ]
    return sorted(found)


def test_a_run_that_goes_on_after_kills_lacks_no_point_and_repeats_only_equal_ones(arguments, run, tmp_path):
    log = tmp_path / "log"
    arguments += ["--config", str(REPOSITORY / "configs" / "wandb.yaml"), "--wandb.offline", "true"]
    arguments += ["--trainer.val_check_interval", "2", "--checkpoint.every_n_train_steps", "2"]
    arguments += ["--pictures.num_images", "0"]

    def fit(*more: str, die_at: int | None = None) -> int:
        def prepare() -> None:
            os.environ["WANDB_MODE"] = "offline"  # a run of the tests has switched it off
            os.environ.pop("WANDB_SERVICE", None)  # of an earlier test in this process, which would outlive the kill
            if die_at is not None:
                before("training_step", kills.die, die_at)

        return kills.call("fit", [*arguments, *more], prepare, log)

    assert fit("--experiment.root", str(tmp_path / "whole")) == 0, log.read_text()
    whole = points(tmp_path / "whole" / run.relative_to(tmp_path / "runs"))
    assert {step for step, name, _ in whole if name == "train/loss"} == {0, 1, 2, 3}
    assert {step for step, name, _ in whole if name == "val/AR100"} == {2, 4}
    assert fit(die_at=3) == -signal.SIGKILL
    assert fit("--ckpt_path", "last") == 0, log.read_text()
    assert set(points(run)) == set(whole)


def test_off_by_default(cli, arguments, run):
    cli("fit", *arguments)
    assert not (run / "wandb").exists()
    assert not (run / "wandb_id").exists()


def test_without_a_login_one_line_says_what_to_do(cli, arguments, run, monkeypatch, capsys):
    import wandb

    def rejected(*_: object, **__: object) -> None:
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(wandb, "init", rejected)
    with pytest.raises(SystemExit) as stop:
        cli("fit", *arguments, "--wandb.enabled", "true")
    assert stop.value.code == 2
    assert (
        "error: wandb.enabled: Weights & Biases cannot be used: No API key configured. Use `wandb login`. Log in with "
        "`wandb login`, or log offline with --wandb.offline true.\n"
    ) in capsys.readouterr().err

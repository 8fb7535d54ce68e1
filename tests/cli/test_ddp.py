"""Two processes from the command line against one: same batches, same weights, every image once."""

from __future__ import annotations

import torch

from tests.command_line import read_log, read_metrics, run_python, weights


def test_two_processes_equal_one(arguments, run, tmp_path):
    # GroupNorm, because live BatchNorm averages over the images of a process. With 2 x 2 images on two processes and
    # two accumulation steps of 2 on one, the same micro-batches are summed: weights agree to the bit.
    common = [*arguments, "--data.batch_size_per_device", "2", "--model.detector.backbone.norm", "group"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--experiment.root", str(tmp_path / "two")]
    for options in (common, [*common, *two]):
        done = run_python("fit", *options)
        assert done.returncode == 0, done.stderr[-3000:]
    other = tmp_path / "two" / run.relative_to(tmp_path / "runs")
    for name, value in weights(run).items():
        assert torch.equal(value, weights(other)[name]), name
    # The log holds the loss of all processes, not of the first one.
    assert read_log(other, "train/loss") == read_log(run, "train/loss")
    # Of 5 images one process evaluates 3, the other 2.
    one = read_metrics(run / "metrics.json")
    assert one["AR1k"] > 0
    assert read_metrics(other / "metrics.json") == one

    done = run_python("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.devices", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_metrics(run / "validate" / "metrics.json") == one

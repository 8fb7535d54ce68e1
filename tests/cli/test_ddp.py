"""Two processes from the command line against one: same batches, same weights, every image once."""

from __future__ import annotations

import re
import shutil
import time

import pytest
import torch

from tests.command_line import read_log, read_metrics, run_python, start_python, weights


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


@pytest.fixture
def broken_data(arguments, tiny_data, tmp_path):
    """A copy of the data, and the arguments of a run on it in two processes."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    options = [*arguments, "--data.root", str(root), "--data.batch_size_per_device", "2", "--trainer.devices", "2"]
    return root, options


def launch(options, printed):
    """Start both processes as a launcher does, so that the status of each is seen; wait, and return what they print."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    with printed.open("w") as stream:
        started = [
            start_python("fit", *options, stream=stream, environment={**common, "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]
        assert [process.wait(timeout=240) for process in started] == [2, 2]
    return printed.read_text()


def test_an_error_in_one_process_ends_all_with_one_line(broken_data, tmp_path):
    root, options = broken_data
    broken = sorted((root / "train").glob("*.jpg"))[0]
    broken.write_bytes(broken.read_bytes()[:-200])  # its header is whole; one of the two processes reads the rest
    text = launch(options, tmp_path / "printed.txt")
    last = text.splitlines()[-1]
    assert last.startswith("error: ")
    assert broken.name in last
    assert text.count("error:") == 1
    assert "Traceback" not in text


@pytest.mark.slow
def test_an_error_that_both_processes_find_at_the_start_ends_both(broken_data, run, tmp_path):
    root, options = broken_data
    for image in (root / "train").glob("*.jpg"):
        image.write_bytes(b"no image")
    launch(options, tmp_path / "printed.txt")

    # Lightning starts the second process. Nothing can be trained on, so that the overwritten run is put back.
    shutil.rmtree(run, ignore_errors=True)
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"of an earlier run")
    done = run_python("fit", *options, "--trainer.strategy", "ddp", "--experiment.overwrite", "true")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*\.jpg.*", done.stderr.splitlines()[-1])
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == b"of an earlier run"


@pytest.mark.slow
def test_a_signal_to_two_processes_leaves_a_checkpoint_to_go_on_from(arguments, run, tmp_path):
    options = [*arguments, "--data.batch_size_per_device", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    options += ["--model.detector.backbone.norm", "group", "--checkpoint.monitor", "val/AR1k"]
    options[options.index("--trainer.max_steps") + 1] = "30"
    options += ["--trainer.val_check_interval", "10"]
    assert run_python("fit", *options).returncode == 0
    whole = tmp_path / "whole"
    run.rename(whole)

    with (tmp_path / "printed.txt").open("w") as printed:
        started = start_python("fit", *options, stream=printed, environment={})
        while not (run / "metrics.csv").exists() or len((run / "metrics.csv").read_text().splitlines()) < 6:
            assert started.poll() is None, (tmp_path / "printed.txt").read_text()[-3000:]
            time.sleep(0.02)
        started.terminate()
        assert started.wait(timeout=240) == 143
    text = (tmp_path / "printed.txt").read_text()
    assert "--ckpt_path last" in text
    assert "Traceback" not in text
    assert not (run / "metrics.json").exists()
    taken = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 2 <= taken < 30

    done = run_python("fit", *options, "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_metrics(run / "metrics.json") == read_metrics(whole / "metrics.json")
    assert read_log(run, "train/loss") == read_log(whole, "train/loss")
    assert read_log(run, "val/AR1k") == read_log(whole, "val/AR1k")
    for file in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(folder / "checkpoints" / file, weights_only=True) for folder in (run, whole))
        assert ours["global_step"] == theirs["global_step"]
        for name, value in ours["state_dict"].items():
            assert torch.equal(value, theirs["state_dict"][name]), name
    scores = {int(row["step"]): float(row["val/AR1k"]) for row in read_log(run, "val/AR1k")}
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert scores[best] == max(scores.values())

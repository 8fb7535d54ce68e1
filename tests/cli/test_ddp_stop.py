"""A signal to one of two processes, or the kill of one, ends both; the run goes on as if nothing had happened."""

from __future__ import annotations

import shutil
import signal

import pytest
import torch

from tests import kills
from tests.command_line import REPOSITORY, run_python, start_python

STOPPED = """
import os, signal
from fpn_lightning import cli
from tests.kills import before

if __name__ == "__main__":
    rank, number, method, step = os.environ["STOP"].split()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told the tests to ignore it
    if os.environ.get("LOCAL_RANK", "0") == rank:
        before(method, lambda: os.kill(os.getpid(), int(number)), int(step))
    cli.main()
"""


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_and_the_run_goes_on(arguments, run, tmp_path):
    arguments = [
        *(*arguments, "--trainer.max_steps", "7", "--trainer.val_check_interval", "3", "--pictures.num_images", "0"),
        *("--data.batch_size_per_device", "1", "--checkpoint.every_n_train_steps", "3"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
    ]
    done = run_python("fit", *arguments, "--experiment.root", str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr[-3000:]
    whole = kills.left_by(tmp_path / "whole" / run.relative_to(tmp_path / "runs"))
    program = tmp_path / "program.py"
    program.write_text(STOPPED)
    for rank, number, method, before, steps in (
        (0, signal.SIGTERM, "training_step", 4, 5),
        (1, signal.SIGTERM, "training_step", 4, 5),
        (0, signal.SIGINT, "validation_step", 3, 3),
        (1, signal.SIGTERM, "validation_step", 3, 3),
    ):
        shutil.rmtree(run, ignore_errors=True)
        environment = {"PYTHONPATH": str(REPOSITORY), "STOP": f"{rank} {int(number)} {method} {before}"}
        done = run_python("fit", *arguments, program=program, environment=environment)
        assert done.returncode == 128 + number, done.stderr[-3000:]
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == steps
        command = f"python train.py fit --config {run / 'config.yaml'} --ckpt_path last"
        assert done.stderr.splitlines()[-1] == f"To continue the run: {command}"
        assert "Traceback" not in done.stderr
        done = run_python(*command.split()[2:])
        assert done.returncode == 0, done.stderr[-3000:]
        assert kills.differences(whole, kills.left_by(run)) == []


@pytest.mark.slow
def test_a_killed_first_process_ends_the_other(arguments, run, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(STOPPED)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29518", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    common |= {"PYTHONPATH": str(REPOSITORY), "STOP": f"0 {int(signal.SIGKILL)} training_step 2"}
    options = [*arguments, "--data.batch_size_per_device", "2", "--trainer.devices", "2"]
    with (tmp_path / "printed.txt").open("w") as printed:
        started = [
            start_python(
                "fit", *options, stream=printed, environment={**common, "LOCAL_RANK": str(rank)}, program=program
            )
            for rank in range(2)
        ]
        assert [process.wait(timeout=120) for process in started] == [-signal.SIGKILL, 1]
    assert "ends because the first process was killed" in (tmp_path / "printed.txt").read_text().splitlines()[-1]

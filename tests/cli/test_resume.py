"""A run that is killed, stopped by a signal or by a full disk goes on as if nothing had happened."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fpn_lightning.data.synthetic import generate
from tests import kills
from tests.command_line import ENVIRONMENT, ROW, read_log
from tests.kills import before

RUN = Path("mini", "table1", "c_fpn", "seed0")


def options(data: Path, root: Path) -> list[str]:
    """Arguments of a run of 7 steps with a checkpoint and a validation after step 3 and step 6."""
    return [
        *("--config", str(ROW), "--preset", "mini", "--experiment.root", str(root), "--trainer.max_steps", "7"),
        *("--data.root", str(data), "--data.short_side", "64", "--data.max_side", "64"),
        *("--data.total_batch_size", "4", "--data.batch_size_per_device", "2", "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false", "--pictures.num_images", "0", "--trainer.val_check_interval", "3"),
        *("--checkpoint.every_n_train_steps", "3", "--model.optimization.reference_batch_size", "4"),
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """13 training images and 2 validation images."""
    root = tmp_path_factory.mktemp("data")
    generate(root, {"train": 13, "val": 2}, size=64, workers=1)
    return root


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    assert kills.call("fit", options(data, root), log=root / "log") == 0, (root / "log").read_text()
    return root / RUN


@pytest.fixture(scope="module")
def whole(whole_run):
    """What an uninterrupted run leaves."""
    return kills.left_by(whole_run)


@pytest.fixture
def fit(data, tmp_path) -> Callable[..., int]:
    """Run ``fit`` in a child process; with ``prepare`` called first."""

    def call(*more: str, prepare: Callable[[], object] = lambda: None) -> int:
        (tmp_path / "log").unlink(missing_ok=True)
        return kills.call("fit", [*options(data, tmp_path), *more], prepare, tmp_path / "log")

    return call


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / RUN


@pytest.fixture
def log(tmp_path) -> Callable[[], str]:
    """What the last child has printed."""
    return lambda: (tmp_path / "log").read_text()


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


MOMENTS = {
    "in the validation after a checkpoint": ("validation_step", 3, 2),
    "after that validation": ("on_validation_end", 3, 1),
    "between a checkpoint and the log": ("on_train_batch_end", 6, 1),
    "in a step": ("optimizer_step", 5, 1),
    "in the last validation": ("validation_step", 7, 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_loses_and_doubles_nothing(fit, run, whole, moment):
    method, step, call = MOMENTS[moment]
    assert fit(prepare=lambda: before(method, kills.die, step, call)) == -signal.SIGKILL
    assert fit("--ckpt_path", "last") == 0
    assert kills.differences(whole, kills.left_by(run)) == []


def test_a_second_kill_within_an_accumulated_step(fit, run, whole):
    for more in ([], ["--ckpt_path", "last"]):
        assert fit(*more, prepare=lambda: before("training_step", kills.die, 3, 2)) == -signal.SIGKILL
    assert fit("--ckpt_path", "last") == 0
    assert kills.differences(whole, kills.left_by(run)) == []


@pytest.mark.parametrize("temporary", [None, "/dev/shm"])
def test_a_kill_within_the_write_of_a_checkpoint(fit, run, whole, monkeypatch, temporary):
    """The kernel kills a process that makes a file larger than it may be."""
    if temporary is not None:
        monkeypatch.setenv("TMPDIR", temporary)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    # The checkpoint of step 3 was whole; that of step 6 is cut.
    assert fit(prepare=lambda: before("training_step", limit, 4)) == -signal.SIGXFSZ
    folder = run / "checkpoints"
    assert {path.name for path in folder.glob("*.ckpt")} == {"step=3.ckpt", "last.ckpt"}
    assert list(folder.glob(".*.part"))
    assert fit("--ckpt_path", "last") == 0
    assert kills.differences(whole, kills.left_by(run)) == []
    assert not list(folder.glob(".*.part"))
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_the_newest_whole_checkpoint_replaces_a_damaged_one(fit, run, log, whole, damage):
    fit(prepare=lambda: before("training_step", kills.die, 5))
    last = run / "checkpoints" / "last.ckpt"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    else:
        last.unlink()
        assert fit() == 2
        assert "holds an unfinished run" in log()
    assert fit("--ckpt_path", "last") == 0
    assert f"{last} is missing or damaged; {last.with_name('step=3.ckpt')} is used instead" in log()
    assert kills.differences(whole, kills.left_by(run)) == []


def test_without_any_whole_checkpoint_the_last_one_is_named(fit, run, log):
    fit(prepare=lambda: before("training_step", kills.die, 4))
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert fit("--ckpt_path", "last") == 2
    assert "last.ckpt cannot be read" in log()


def test_a_run_killed_before_its_first_checkpoint_leaves_no_curve(fit, run, whole):
    def kill() -> None:
        (run / "untrained.yaml").write_text("{AR100: 0.5}")
        kills.die()

    lr = ("--model.optimization.lr", "0.001")
    assert fit(*lr, prepare=lambda: before("training_step", kill, 2)) == -signal.SIGKILL
    assert read_log(run, "train/loss")
    assert fit() == 0
    assert kills.differences(whole, kills.left_by(run)) == []


# ---- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize(("method", "step", "steps"), [("training_step", 4, 5), ("validation_step", 3, 3)])
def test_a_signal_leaves_a_checkpoint_and_the_command_that_goes_on(
    fit, run, log, whole, number, status, method, step, steps
):
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told the tests to ignore it
        before(method, send(number), step)

    assert fit(prepare=prepare) == status
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == steps
    command = f"python train.py fit --config {run / 'config.yaml'} --ckpt_path last"
    assert f"To continue the run: {command}" in log()
    assert "Traceback" not in log()
    assert fit(*command.split()[3:]) == 0
    assert kills.differences(whole, kills.left_by(run)) == []


def test_a_closed_terminal_leaves_a_checkpoint(fit, run):
    def hang_up() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)  # writing to it fails
        os.kill(os.getpid(), signal.SIGHUP)

    assert fit(prepare=lambda: before("training_step", hang_up, 4)) == 129
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


def test_a_second_signal_stops_at_once(fit, run, log):
    def prepare() -> None:
        before("training_step", send(signal.SIGTERM), 4)
        before("on_before_optimizer_step", send(signal.SIGTERM), 4)

    assert fit(prepare=prepare) == 143
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert "To continue the run" in log()


def test_signals_outside_the_steps(fit, run, log, whole):
    # Lightning's classes: a stage does not override these methods.
    assert fit(prepare=lambda: before("on_fit_start", send(signal.SIGTERM))) == 143
    assert "because no step has finished" in log()
    assert fit(prepare=lambda: before("on_train_epoch_end", send(signal.SIGTERM))) == 143
    assert "To continue the run" in log()
    assert fit("--ckpt_path", "last", prepare=lambda: before("setup", send(signal.SIGTERM))) == 143
    assert fit("--ckpt_path", "last", prepare=lambda: before("validation_step", send(signal.SIGTERM))) == 143
    assert fit("--ckpt_path", "last") == 0
    assert kills.differences(whole, kills.left_by(run)) == []


def test_ctrl_c_in_the_terminal_reaches_the_workers_too(data, tmp_path, whole):
    """The whole process group gets the signal; workers that load data must not die of it."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from fpn_lightning import cli; "
        "from tests.kills import before; "
        "before('on_train_batch_start', lambda: os.killpg(0, signal.SIGINT), 2); cli.main()"
    )
    arguments = ["fit", *options(data, tmp_path), "--data.num_workers", "1"]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, env=ENVIRONMENT)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert kills.call(*arguments[:1], [*arguments[1:], "--ckpt_path", "last"]) == 0
    left = kills.left_by(tmp_path / RUN)
    left["record"]["config_sha256"] = whole["record"]["config_sha256"]
    assert kills.differences(whole, left) == []


# ---- disks ---------------------------------------------------------------------------------------------------------


def test_a_file_that_may_not_grow_is_one_line_and_the_run_goes_on(fit, run, log, whole):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    assert fit(prepare=lambda: before("training_step", limit, 4)) == 2
    folder = run / "checkpoints"
    assert f"error: {folder / 'step=6.ckpt'} cannot be written (File too large)" in log()
    assert "Traceback" not in log()
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step=3.ckpt"]
    assert fit("--ckpt_path", "last") == 0
    assert kills.differences(whole, kills.left_by(run)) == []


@contextmanager
def mounted(folder: Path, *flags: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(flags), "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk for this test needs root and the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("checkpoints", [0.01, 0.5, 2.5])
def test_a_full_disk_is_one_line_and_the_run_goes_on(fit, run, log, whole_run, whole, tmp_path, checkpoints):
    """The disk is full at the first step, in the first checkpoint, or in a later one."""
    size = (whole_run / "checkpoints" / "last.ckpt").stat().st_size * checkpoints
    with mounted(tmp_path / "mini", f"size={int(size)}"):
        assert fit() == 2
        (error,) = [line for line in log().splitlines() if line.startswith("error: ")]
        assert f"error: {run}" in error
        assert "(No space left on device). Free space for " in error
        assert "Traceback" not in log()
        subprocess.run(["mount", "-o", "remount,size=50m", str(tmp_path / "mini")], check=True)
        resumes = any((run / "checkpoints").glob("*.ckpt"))
        assert resumes == (checkpoints > 1)
        assert fit(*(["--ckpt_path", "last"] if resumes else [])) == 0
        assert kills.differences(whole, kills.left_by(run)) == []


def test_the_folder_for_temporary_files_may_be_full(fit, run, whole, tmp_path, monkeypatch):
    with mounted(tmp_path / "temporary", "size=64k"):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
        assert fit() == 0
        assert kills.differences(whole, kills.left_by(run)) == []


def test_a_root_that_cannot_be_written_to_is_one_line(cli, data, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        cli("fit", *options(data, tmp_path / "file"))
    assert stop.value.code == 2
    assert f"{tmp_path / 'file' / RUN} cannot be written (Not a directory)" in capsys.readouterr().err
    with mounted(tmp_path / "read_only", "ro"), pytest.raises(SystemExit) as stop:
        cli("fit", *options(data, tmp_path / "read_only"))
    assert stop.value.code == 2
    assert "cannot be written (Read-only file system). Make " in capsys.readouterr().err


# ---- checkpoints that are none -------------------------------------------------------------------------------------


class Trap:
    def __reduce__(self):
        return (open, ("trapped", "w"))


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_a_file_that_is_no_checkpoint_is_named_and_not_run(cli, data, tmp_path, monkeypatch, capsys, subcommand):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap.py").write_text("open('trapped', 'w')\nclass Trap: pass\n")
    named = {"hyper_parameters": {"_class_path": "trap.Trap", "lr": 1}}
    torch.save({**named, "state_dict": {}}, "whole.ckpt")
    contents = {
        "empty": (b"", "cannot be read"),
        "cut": (Path("whole.ckpt").read_bytes()[:300], "cannot be read"),
        "pickle": (pickle.dumps(Trap()), "cannot be read"),
    }
    torch.save(named, "named.ckpt")
    contents["named"] = (Path("named.ckpt").read_bytes(), "is not a checkpoint")
    torch.save({**named, "state_dict": {"a": torch.ones(1)}, "global_step": 1}, "weights.ckpt")
    contents["weights"] = (Path("weights.ckpt").read_bytes(), "has no pytorch-lightning_version")
    more = {"validate": [], "test": ["--data.test_split", "val"], "predict": ["--data.predict_split", "val"]}
    for name, (content, message) in contents.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        with pytest.raises(SystemExit) as stop:
            cli(subcommand, *options(data, tmp_path), *more[subcommand], "--ckpt_path", str(path))
        error = capsys.readouterr().err
        assert stop.value.code == 2, name
        assert f"error: --ckpt_path: {path} {message}" in error, name
        assert not (tmp_path / "trapped").exists(), name
        assert "trap" not in sys.modules, name

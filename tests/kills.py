"""Runs of the command line in child processes that are killed, and comparisons of what they leave."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fpn_lightning.cli import main
from fpn_lightning.stages.base import BaseStage

# Wall-clock times and memory differ between equal runs.
MEASURED = ("train/seconds_per_step", "train/images_per_second", "train/peak_memory_mib")


def call(
    subcommand: str,
    arguments: list[str],
    prepare: Callable[[], Any] = lambda: None,
    log: Path | None = None,
    kill_after: float | None = None,
) -> int:
    """Run the command line in a child process; return its exit status, minus the signal's number if it was killed.

    Args:
        subcommand: ``fit`` or another one.
        arguments: after the subcommand.
        prepare: called in the child first.
        log: file for its output.
        kill_after: kill it after that many seconds.
    """
    child = os.fork()
    if child:
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99  # of an exception
    try:
        handle = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        # pytest has replaced these.
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
        torch.set_num_threads(1)
        prepare()
        main([subcommand, *arguments])
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the child must not go on as pytest, also if its terminal has gone
                stream.flush()
        os._exit(status)


def die() -> None:
    """Kill this process as a power cut or the kernel does."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(method: str, action: Callable[[], object], step: int = -1, call: int = 1, owner: type = BaseStage) -> None:
    """Do something before a method of a stage is called for the ``call``-th time at or after a step."""
    original, calls = getattr(owner, method), 0

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        taken = 0 if getattr(self, "_trainer", None) is None else self.global_step
        calls += taken >= step
        if calls == call and taken >= step:
            action()
        return original(self, *args, **kwargs)

    setattr(owner, method, patched)


def left_by(run: Path) -> dict[str, Any]:
    """What a finished run has measured and learned, without times, memory and the commit of the checkout."""
    record = json.loads((run / "metrics.json").read_text())
    for group, key in (("train", "seconds_per_step"), ("eval", "seconds_per_image")):
        record[group].pop(key)
    record.pop("peak_memory_mib")
    record.pop("commit")
    record["curves"] = {name: points for name, points in record["curves"].items() if name not in MEASURED}
    with (run / "metrics.csv").open(newline="") as file:
        lines = [{key: value for key, value in line.items() if value} for line in csv.DictReader(file)]
    log = [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]
    timed = [(line["step"], sorted(line)) for line in lines]
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    learned = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    return {"record": record, "log": [line for line in log if len(line) > 1], "lines": timed, "checkpoint": learned}


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the values that differ in a single bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        return [found for key in keys for found in differences(one.get(key), other.get(key), f"{name}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for place, pair in pairs for found in differences(*pair, f"{name}.{place}")]
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    same = torch.equal(one, other) if tensors else one == other
    return [] if same else [name]

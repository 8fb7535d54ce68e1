"""Runs of all four stages are killed and stopped many times; writes ``reports/reliability.md``. Takes minutes."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fpn_lightning.data.synthetic import generate
from fpn_lightning.runs.record import Record
from tests import kills
from tests.command_line import REPOSITORY
from tests.kills import before, die

PAGE = REPOSITORY / "reports" / "reliability.md"
ROWS = {
    "RPN": "table1/c_fpn",
    "Fast R-CNN": "table2/c_fpn",
    "Faster R-CNN": "table3/joint_fpn",
    "mask proposals": "table6/mlp5",
}
RANDOM_KILLS = 5  # of one run, one after the other


def cut_write() -> None:
    """Write half of the next checkpoint, then die."""

    def half(content: Any, file: Any) -> None:
        save(content, file)
        file.truncate(file.tell() // 2)
        die()

    save, torch.save = torch.save, half


def at(number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told the tests to ignore it
    before("training_step", lambda: os.kill(os.getpid(), number), 4)


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))


# Steps 0 to 6; a checkpoint and a validation of two images after step 3 and step 6; each step in two halves.
KILLS: dict[str, Callable[[], None]] = {
    "kill before the first checkpoint": partial(before, "training_step", die, 2),
    "kill in the second half of a step": partial(before, "training_step", die, 4, 2),
    "kill between two steps": partial(before, "on_train_batch_start", die, 5),
    "kill in the middle of writing a checkpoint": partial(before, "training_step", cut_write, 5),
    "kill before a checkpoint gets its name": partial(
        before, "training_step", lambda: before("replace", die, owner=Path), 5
    ),
    "kill in the validation after a checkpoint": partial(before, "validation_step", die, 3, 2),
    "kill at the end of that validation": partial(before, "on_validation_end", die, 3),
    "kill in the last validation": partial(before, "validation_step", die, 7),
    "kill before the record is written": partial(before, "save", die, owner=Record),
}
OTHERS: dict[str, tuple[Callable[[], None], int]] = {
    "Ctrl-C in a step": (partial(at, signal.SIGINT), 130),
    "SIGTERM in a step": (partial(at, signal.SIGTERM), 143),
    "a file that may not grow (as a full disk)": (partial(before, "training_step", small_files, 4), 2),
}
AT_RANDOM, DAMAGED = "kill at a random time, several times in one run", "cut `last.ckpt`"


class Stage:
    """Runs of one row, each in a folder of its own."""

    def __init__(self, row: str, data: Path, folder: Path, more: list[str]) -> None:
        self.row, self.folder, self.log = row, folder, folder / "log"
        self.arguments = [
            *("--config", str(REPOSITORY / "configs" / f"{row}.yaml"), "--preset", "mini", "--data.root", str(data)),
            *("--data.short_side", "64", "--data.max_side", "64", "--trainer.max_steps", "7"),
            *("--data.total_batch_size", "4", "--data.batch_size_per_device", "2"),
            *("--model.optimization.reference_batch_size", "4", "--trainer.val_check_interval", "3"),
            *("--checkpoint.every_n_train_steps", "3", "--trainer.log_every_n_steps", "1"),
            *("--trainer.enable_progress_bar", "false", "--pictures.num_images", "1", *more),
        ]
        folder.mkdir()
        started = time.monotonic()
        assert self.fit("whole") == 0, self.log.read_text()
        self.seconds = time.monotonic() - started
        self.whole = kills.left_by(self.run("whole"))

    def run(self, name: str) -> Path:
        return self.folder / name / "mini" / self.row / "seed0"

    def fit(self, name: str, **how: Any) -> int:
        """Start a run, or continue it if it has a checkpoint."""
        resume = ["--ckpt_path", "last"] if any((self.run(name) / "checkpoints").glob("*.ckpt")) else []
        arguments = [*self.arguments, "--experiment.root", str(self.folder / name), *resume]
        self.log.unlink(missing_ok=True)  # the log of all runs would be longer than a small file may be
        return kills.call("fit", arguments, log=self.log, **how)

    def is_right(self, name: str) -> bool:
        """Finish a run, and compare it with the uninterrupted one."""
        run = self.run(name)
        if not (run / "metrics.json").exists() and self.fit(name) != 0:
            print(self.row, name, self.log.read_text())
            return False
        wrong = [str(path) for path in run.rglob(".*.part")]
        wrong += kills.differences(self.whole, kills.left_by(run))
        print(self.row, name, wrong)
        return not wrong


@pytest.mark.slow
def test_a_run_is_the_same_whatever_stops_it(tmp_path):
    generate(tmp_path / "data", {"train": 13, "val": 2}, size=64, workers=1)
    tries: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    chance = random.Random(0)
    more: list[str] = []
    for name, row in ROWS.items():
        stage = Stage(row, tmp_path / "data", tmp_path / name, more if name == "Fast R-CNN" else [])
        if name == "RPN":
            more = ["--data.proposals", str(_proposals(stage))]
        for fault, prepare in KILLS.items():
            assert stage.fit(fault, prepare=prepare) == -signal.SIGKILL, (name, fault, stage.log.read_text())
            tries[fault, name] += 1
            right[fault, name] += stage.is_right(fault)
        for fault, (prepare, status) in OTHERS.items():
            ended = stage.fit(fault, prepare=prepare)
            tries[fault, name] += 1
            right[fault, name] += ended == status and stage.is_right(fault)
        stage.fit(DAMAGED, prepare=partial(before, "training_step", die, 4))
        last = stage.run(DAMAGED) / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[: chance.randrange(last.stat().st_size)])
        tries[DAMAGED, name] += 1
        right[DAMAGED, name] += stage.is_right(DAMAGED)
        killed = [stage.fit(AT_RANDOM, kill_after=chance.uniform(0.2, stage.seconds)) for _ in range(RANDOM_KILLS)]
        count = sum(status == -signal.SIGKILL for status in killed)
        tries[AT_RANDOM, name] += count
        right[AT_RANDOM, name] += count * stage.is_right(AT_RANDOM)
    PAGE.write_text(_page(tries, right), encoding="utf-8")
    assert sum(number for (fault, _), number in tries.items() if fault.startswith("kill")) >= 40
    assert right == tries


def _proposals(rpn: Stage) -> Path:
    """Let the uninterrupted RPN make the proposals that Fast R-CNN trains on."""
    config = str(rpn.run("whole") / "config.yaml")
    for split in ("train", "val"):
        arguments = ["--config", config, "--ckpt_path", "last", "--data.predict_split", split]
        assert kills.call("predict", arguments, log=rpn.log) == 0, rpn.log.read_text()
    return rpn.run("whole") / "proposals"


def _page(tries: Counter[tuple[str, str]], right: Counter[tuple[str, str]]) -> str:
    of_kills = sum(tries[key] for key in tries if key[0] in (*KILLS, AT_RANDOM))
    lines = [
        "# Reliability",
        "Short runs of the four stages were killed (SIGKILL) or stopped, and continued with `--ckpt_path last`. Each",
        "interruption is one try. A try passes if the continued run leaves no temporary file and is bitwise equal",
        "to an uninterrupted run in weights, the optimiser's state, every line of `metrics.csv` and the record.",
        "Wall-clock times, memory and the commit are not compared.",
        "",
        f"**{sum(right.values())} of {sum(tries.values())} tries passed. In {of_kills}, the fault was a kill.**",
        "",
        f"| fault | {' | '.join(ROWS)} |",
        f"|---|{'---|' * len(ROWS)}",
    ]
    for fault in (*KILLS, AT_RANDOM, DAMAGED, *OTHERS):
        cells = (f"{right[fault, name]} of {tries[fault, name]}" for name in ROWS)
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    lines += [
        "",
        "Each run has preset mini and generated images of 64 px. It takes 7 steps of 4 images (two batches of 2,",
        "whose gradients are accumulated), with a checkpoint and a validation after step 3 and step 6. We chose the",
        "moments of the kills, except in the row “kill at a random time”.",
        "",
        "Written by `python -m pytest -m slow tests/cli/test_reliability.py`.",
    ]
    return "\n".join(lines) + "\n"

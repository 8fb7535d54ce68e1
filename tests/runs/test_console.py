"""Messages on the terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.progress import Progress

from fpn_lightning.errors import InputError, complain
from fpn_lightning.runs.console import print_metrics, set_up_logging
from fpn_lightning.runs.speed import StepProgressBar


def test_brackets_in_a_message_survive(capsys):
    assert complain(InputError("pip install fpn_lightning[timm]; sizes [3, 6]")) == 2
    assert "fpn_lightning[timm]; sizes [3, 6]" in capsys.readouterr().err


def test_metrics_are_shown_times_100_by_size(capsys):
    metrics = {"AP": 0.25, "AP50": None, "APs": 0.0, "APm": None, "APl": 0.75}
    print_metrics("t", metrics | {"AR100": 0.4444, "AR100_s": None, "AR100_m": 0.5, "AR100_l": 1.0})
    out = capsys.readouterr().out
    assert "size classes: small ≤ 1024 px² ≤ medium ≤ 9216 px² ≤ large" in out
    assert cells(out) == {
        "AP": ["25.0", "0.0", "–", "75.0"],
        "AP50": ["–", "", "", ""],
        "AR100": ["44.4", "–", "50.0", "100.0"],
    }


@pytest.mark.parametrize(("count", "all_classes"), [(30, False), (31, False), (31, True)])
def test_the_ap_of_each_class_is_shown_for_at_most_30_classes(capsys, count, all_classes):
    per_class = {f"[b]class {number}": 1 - number / 100 for number in range(count)}
    print_metrics("t", {"AP": 0.5}, per_class={**per_class, "[b]class 0": None}, all_classes=all_classes)
    out = capsys.readouterr().out
    shown = cells(out)
    if count <= 30 or all_classes:
        assert len(shown) == 1 + count
        assert (shown["[b]class 0"], shown["[b]class 29"]) == (["–"], ["71.0"])
    else:
        assert list(shown) == ["AP"]
        assert "To print the AP of the 31 classes: --verbose true" in out


def cells(printed: str) -> dict[str, list[str]]:
    """Cells of printed tables by the first cell of their line."""
    lines = ([cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line)
    return {name: values for name, *values in lines}


@contextmanager
def started_bar() -> Iterator[StepProgressBar]:
    """A progress bar that writes to a terminal of its own, before its first step of 6."""
    console = {"file": StringIO(), "force_terminal": True, "width": 100, "_environ": {}}
    bar = StepProgressBar(console_kwargs=console)
    trainer = SimpleNamespace(
        max_steps=6, accumulate_grad_batches=2, global_step=0, current_epoch=0, sanity_checking=False,
        state=SimpleNamespace(fn="fit"), progress_bar_callback=bar, training=True, progress_bar_metrics={},
        num_val_batches=[5], num_predict_batches=[5], loggers=[],
    )  # fmt: skip
    bar._trainer = trainer
    bar._update_metrics = lambda *_: None
    bar.on_train_start(trainer, None)
    bar.on_train_epoch_start(trainer, None)
    yield bar
    bar.teardown(trainer, None, "fit")


def task(bar: StepProgressBar, number: int) -> tuple[float, float | None, bool]:
    assert isinstance(bar.progress, Progress)
    found = bar.progress.tasks[number]
    return found.completed, found.total, found.visible


def test_the_bar_counts_optimiser_steps():
    with started_bar() as bar:
        assert task(bar, 0) == (0, 6, True)
        for batch, steps in enumerate((0, 1, 1, 2)):
            bar.trainer.global_step = steps
            bar.on_train_batch_end(bar.trainer, None, None, None, batch)
            assert task(bar, 0) == (steps, 6, True)


def test_a_validation_is_visible_from_its_start(capsys):
    with started_bar() as bar:
        bar.on_validation_batch_start(bar.trainer, None, None, 0)
        assert task(bar, 1) == (0, 5, True)


def test_the_bar_of_predict_is_full_if_files_were_skipped():
    with started_bar() as bar:
        bar.on_predict_batch_start(bar.trainer, None, None, 0)
        bar.on_predict_batch_end(bar.trainer, None, None, None, 2)  # of 5 batches two had no readable image
        bar.on_predict_end(bar.trainer, None)
        assert task(bar, 1) == (5, 5, True)


@pytest.mark.parametrize("name", ["fpn_lightning", "lightning.pytorch.utilities.rank_zero"])
def test_messages_get_lines_of_their_own(name):
    """While a bar is shown, what is written to ``sys.stderr`` is printed above it."""
    with started_bar() as bar:
        set_up_logging()
        logging.getLogger(name).info("a message")
        print("a warning", file=sys.stderr)
        lines = bar._console.file.getvalue().splitlines()
        for message in ("a message", "a warning"):
            assert [line for line in lines if line.rpartition("\x1b[2K")[2].removeprefix("INFO: ") == message], lines

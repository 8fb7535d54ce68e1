"""Runs in locales and on terminals that are not UTF-8, and names that contain markup."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from fpn_lightning.runs.console import print_metrics, set_up_logging
from tests.command_line import REPOSITORY

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "latin-1"}], ids=["ascii", "latin-1"])
def test_a_run_with_a_progress_bar_ends_well_where_the_terminal_is_not_utf8(arguments, run, tmp_path, environment):
    (tmp_path / "more.yaml").write_text("# § 5.1 “quoted”\ntrainer: {max_steps: 1}\n", encoding="utf-8")
    given = arguments.index("--trainer.max_steps")
    arguments = [
        *arguments[:given],
        *arguments[given + 2 :],
        "--config",
        str(tmp_path / "more.yaml"),
        "--trainer.enable_progress_bar",
        "true",
    ]
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", *arguments, "--data.num_workers", "0"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"Training" in done.stdout
    assert (run / "metrics.json").is_file()


def test_markup_in_names_is_text(capsys):
    print_metrics("[/] title", {"[bold]AR100": 0.5}, per_class={"[red]cat": 0.5})
    printed = capsys.readouterr().out
    for text in ("[/] title", "[bold]AR100", "[red]cat"):
        assert text in printed


def test_a_warning_is_one_line_without_escape_sequences(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    set_up_logging()
    text = warnings.formatwarning("category \x1b[31mcat\ndog", UserWarning, "file.py", 3)
    assert text == "file.py:3: category \\x1b[31mcat\\ndog\n"

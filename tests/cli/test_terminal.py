"""Runs in locales and on terminals that are not UTF-8, and names that contain markup."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest

from fpn_lightning.runs.console import print_metrics, set_up_logging
from tests.cli.test_wandb import offline_runs
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


def test_names_in_annotations_reach_terminal_and_files_as_text(
    cli, arguments, tiny_data, tmp_path, capsys, monkeypatch
):
    """Hostile names of categories and files, from training to pictures and Weights & Biases."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    hostile = "\x1b[2J[/] [bold red]x\n<script>|"
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["info"] = {"description": hostile}
        for category in content["categories"]:
            category["name"] = f"{hostile}{category['id']}"
        for image in content["images"][:2]:
            name = image["file_name"]
            image["file_name"] = f"[bold]\x1b[2J{name}"
            (root / split / name).rename(root / split / image["file_name"])
        file.write_text(json.dumps(content))
    row = REPOSITORY / "configs" / "table3" / "joint_fpn.yaml"
    given = ["--data.root", str(root), "--trainer.max_steps", "1", "--pictures.num_images", "2"]
    given += ["--config", str(REPOSITORY / "configs" / "wandb.yaml"), "--wandb.offline", "true"]
    cli("fit", "--config", str(row), *arguments[2:], *given)
    run = tmp_path / "runs/mini/table3/joint_fpn/seed0"
    ((details, config, summary, _),) = offline_runs(run)
    fields = [details.run_group, details.display_name, *details.tags, *config, *summary]
    fields += [str(value) for value in (*config.values(), *summary.values())]
    assert all(field.isprintable() and "script" not in field for field in fields)
    # A W&B run that nobody finishes would be taken up by the next test.
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last", "--wandb.enabled", "false"]
    cli("validate", *saved)
    low = ["--model.detector.roi_heads.score_thresh", "0"]
    cli("predict", *saved, *low, "--data.predict_path", str(root / "val"), "--pictures.num_images", "null")
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    names = [path.name for path in (tmp_path / "runs").rglob("*")]
    assert any("[bold]" in name for name in names)  # as the image is called
    assert not any("script" in name for name in names)
    with pytest.raises(SystemExit) as stop:
        cli("predict", *saved, "--data.predict_split", "../x")
    assert stop.value.code == 2
    assert "error: split '../x' is not the name of a folder" in capsys.readouterr().err


def test_a_warning_is_one_line_without_escape_sequences(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    set_up_logging()
    text = warnings.formatwarning("category \x1b[31mcat\ndog", UserWarning, "file.py", 3)
    assert text == "file.py:3: category \\x1b[31mcat\\ndog\n"

"""``make quickstart`` in a fresh clone: its commands one after the other, with few images and steps."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import torch

from fpn_lightning.cli import main
from fpn_lightning.data.synthetic.__main__ import main as generate
from fpn_lightning.reporting.__main__ import main as report
from tests.command_line import REPOSITORY

FEW = ["--trainer.max_steps", "2", "--data.max_val_images", "2", "--trainer.enable_progress_bar", "false"]


def test_the_commands_of_make_quickstart_work_where_nothing_is_yet(checkout, capsys):
    torch.set_num_threads(1)
    recipe = subprocess.run(
        ["make", "--dry-run", "quickstart"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    ours = [line.partition("python ")[2] for line in recipe.splitlines() if "fpn_lightning." in line or "fit" in line]
    makes_data, trains, reports = map(shlex.split, ours)
    generate([*makes_data[2:], "--train", "12", "--val", "4", "--workers", "1"])
    main([*trains[1:], *FEW])
    record = json.loads(Path("runs/quickstart/table1/c_fpn/seed0/metrics.json").read_text())
    assert (record["status"], record["train"]["steps"]) == ("finished", 2)
    assert report(reports[2:]) == 0
    assert "Table 1" in Path("reports/quickstart/table1.md").read_text(encoding="utf-8")
    main([*trains[1:], *FEW])  # and once more

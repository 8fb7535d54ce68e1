"""Real runs of the workflow, very small: a killed row resumes, and a row of Table 2 gets its proposals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fpn_lightning.data.proposals.store import ProposalStore
from tests.command_line import REPOSITORY
from tests.records import a_record

STEPS = 60


@pytest.fixture
def tiny(checkout: Path, tiny_data: Path) -> Path:
    """The working directory, with a preset whose runs take seconds."""
    preset = yaml.safe_load((checkout / "configs/presets/mini.yaml").read_text())
    preset["experiment"]["preset"] = "tiny"
    preset["trainer"] |= {"max_steps": STEPS, "enable_progress_bar": False}
    preset["checkpoint"]["every_n_train_steps"] = 5
    preset["data"] |= {"root": str(tiny_data), "short_side": 64, "max_side": 64}
    (checkout / "configs/presets/tiny.yaml").write_text(yaml.safe_dump(preset))
    return checkout


def make(*arguments: str) -> subprocess.Popen[str]:
    """Start make with this environment's programs, as a process group of its own."""
    environment = Path(sys.prefix)
    given = [f"--file={REPOSITORY / 'Makefile'}", f"VENV={environment}", f"--old-file={environment / '.ready'}"]
    return subprocess.Popen(
        ["make", *given, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")},
    )


@pytest.mark.slow  # two runs of the command line beside two of Snakemake
def test_a_killed_row_resumes_and_ends_with_a_record(tiny: Path):
    run = tiny / "runs/tiny/table1/a_conv4/seed4"
    row = ("row", "ROW=table1/a_conv4", "PRESET=tiny", "SEED=4")
    killed = make(*row)
    give_up = time.monotonic() + 120
    while not (run / "checkpoints/last.ckpt").exists():
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (run / "metrics.json").exists()

    resumed = make(*row)
    printed, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, printed
    assert "--ckpt_path last" in printed
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert record["experiment"] == {"table": "table1", "row": "a_conv4", "preset": "tiny", "seed": 4}
    assert record["train"]["steps"] == STEPS


@pytest.mark.slow
def test_a_row_of_table_2_comes_with_its_proposals(tiny: Path):
    preset = yaml.safe_load((tiny / "configs/presets/tiny.yaml").read_text())
    preset["trainer"]["max_steps"] = 3
    (tiny / "configs/presets/tiny.yaml").write_text(yaml.safe_dump(preset))
    started = make("row", "ROW=table2/c_fpn", "PRESET=tiny", "SEED=1")
    printed, _ = started.communicate(timeout=400)
    assert started.returncode == 0, printed
    for table in ("table1", "table2"):
        record = json.loads((tiny / f"runs/tiny/{table}/c_fpn/seed1/metrics.json").read_text())
        assert record["experiment"] == {"table": table, "row": "c_fpn", "preset": "tiny", "seed": 1}
        assert record["status"] == "finished"
    stores = tiny / "runs/tiny/table1/c_fpn/seed1/proposals"
    assert [ProposalStore(stores / split).header.num_images for split in ("train", "val")] == [13, 5]


def test_a_finished_row_is_left_alone(checkout: Path):
    a_record().save(checkout / "runs/mini/table1/a_conv4/seed4/metrics.json")
    done = make("row", "ROW=table1/a_conv4", "SEED=4")
    printed, _ = done.communicate(timeout=60)
    assert done.returncode == 0, printed
    assert "Nothing to be done" in printed

"""Running the command line in tests, and reading what a run has left."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
ROW = REPOSITORY / "configs" / "table1" / "c_fpn.yaml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


TRAIN = REPOSITORY / "train.py"


def run_python(
    *args: str, timeout: float = 300, program: Path = TRAIN, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Run ``train.py`` in a process of its own, one thread each, and return what it printed.

    Args:
        args: of the program.
        timeout: seconds.
        program: another program that calls the command line.
        environment: more environment variables.
    """
    command = [sys.executable, str(program), *args]
    variables = {**ENVIRONMENT, **environment}
    return subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=timeout)


def start_python(
    *args: str, stream: TextIO, environment: dict[str, str], program: Path = TRAIN
) -> subprocess.Popen[str]:
    """Start ``train.py`` as :func:`run_python` does, with more environment variables; it prints to a file."""
    command = [sys.executable, str(program), *args]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env={**ENVIRONMENT, **environment}, stdout=stream, stderr=stream, text=True
    )


def read_metrics(path: Path) -> dict[str, float | None]:
    """Metrics of a ``metrics.json``."""
    return json.loads(path.read_text())["metrics"]


def read_log(run: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of ``metrics.csv`` that hold all of the columns, with step and those columns only."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{c: row[c] for c in ("step", *columns)} for row in rows if all(row.get(c) for c in columns)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights of a run's last checkpoint by a detector's names, read without running code."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return {name.removeprefix("detector."): value for name, value in checkpoint["state_dict"].items()}

"""Shared fixtures: real COCO data, if it lies anywhere, a tiny generated data set, and the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as fpn_lightning.__main__ does, before torch is imported

from tests.command_line import REPOSITORY, ROW

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


def _shared_folder(name: str) -> Path:
    root = Path(os.environ.get("FPN_LIGHTNING_SHARED", REPOSITORY.parent / "shared"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set FPN_LIGHTNING_SHARED to the folder that holds {name}/")
    return folder


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Folder in COCO's layout with 59 train2017 and 66 val2017 images and complete annotations."""
    return _shared_folder("coco-mini")


@pytest.fixture(scope="session")
def coco_small() -> Path:
    """Folder in COCO's layout with the splits small_train and small_val; boxes only."""
    return _shared_folder("coco-small")


@pytest.fixture(scope="session")
def coco_golden() -> Path:
    """Folder with instances_val2014_100.json, *_fakebbox100_results.json and *_fakesegm100_results.json."""
    return _shared_folder("coco-golden")


@pytest.fixture(scope="session")
def reported() -> Path:
    """Folder with small inputs that people met, one folder for each."""
    return _shared_folder("reported")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 training and 5 validation images of 64 px."""
    from fpn_lightning.data.synthetic import generate

    root = tmp_path_factory.mktemp("synthetic_tiny")
    generate(root, {"train": 13, "val": 5}, size=64, workers=1)
    return root


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> list[str]:
    """Arguments after the subcommand: row, preset, and what makes a run take seconds."""
    return [
        *("--config", str(ROW), "--preset", "mini"),
        *("--data.root", str(tiny_data), "--data.short_side", "64", "--data.max_side", "64"),
        *("--experiment.root", str(tmp_path / "runs"), "--trainer.max_steps", "4"),
        *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
        *("--data.total_batch_size", "4", "--data.batch_size_per_device", "4"),
        *("--model.optimization.reference_batch_size", "4", "--model.optimization.warmup_steps", "2"),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Directory of the run that ``arguments`` describe."""
    return tmp_path / "runs" / "mini" / "table1" / "c_fpn" / "seed0"


@pytest.fixture
def cli() -> Callable[..., Any]:
    """Run the command line in this process, on one thread; returns the CLI object."""
    import torch

    from fpn_lightning.cli import main

    torch.set_num_threads(1)

    def call(*args: str) -> Any:
        return main(list(args))

    return call

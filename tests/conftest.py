"""Shared fixtures: where real COCO data lies, if it lies anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
def coco_golden() -> Path:
    """Folder with instances_val2014_100.json, *_fakebbox100_results.json and *_fakesegm100_results.json."""
    return _shared_folder("coco-golden")

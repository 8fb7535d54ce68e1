"""A folder to call Snakemake in: a copy of the configs and the workflow, without any run."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.command_line import REPOSITORY


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with all files that Snakemake reads."""
    for name in ("configs", "workflow"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "train.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``workflow/rows.py``, imported as the Snakefile does."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "workflow"))
    yield importlib.import_module("rows")
    sys.modules.pop("rows", None)

from __future__ import annotations

from pathlib import Path

import pytest

from .builders import many_images, write_split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FPN_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """23 training images, 5 validation images."""
    write_split(tmp_path / "data", "train2017", many_images(23))
    write_split(tmp_path / "data", "val2017", many_images(5))
    return tmp_path / "data"

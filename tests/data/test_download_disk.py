from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fpn_lightning.data.download import download_coco
from fpn_lightning.errors import InputError

from .coco_server import Served, coco_files, images, serve, zip_bytes

VAL = "/zips/val2017.zip"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(coco_files()) as server:
        yield server


def report_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))


def test_too_little_room_is_said_before_fetching(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    val, annotations = len(served.files[VAL]), len(served.files["/annotations/annotations_trainval2017.zip"])
    # archives come one after the other: unpacked annotations stay, their archive is gone when the images come
    needed = 4 * annotations + val + int(1.05 * val)
    report_free(monkeypatch, needed - 1)
    with pytest.raises(InputError, match=f"needs {needed:,} bytes and {needed - 1:,} are available"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert {method for method, _, _ in served.requests} == {"HEAD"}
    with pytest.raises(InputError, match=f"needs {needed + annotations:,} bytes"):
        download_coco(tmp_path, splits=["val"], base_url=served.url, keep_archives=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False)

    def resize(size: str) -> Path:
        assert mount(size, "remount").returncode == 0
        return folder

    if os.geteuid() or mount("1m").returncode:
        pytest.skip("a small disk for this test needs root and the right to mount a tmpfs")
    yield resize
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("size", "left"), [("1m", "val2017.zip.part"), ("3m", "val2017.zip")])
def test_disk_that_fills_up_anyway(
    served: Served, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, size: str, left: str
) -> None:
    """1 MiB fills up while fetching, 3 MiB while unpacking."""
    served.files[VAL] = zip_bytes(images("val2017", 20, 100_000))
    root = small_disk(size)
    report_free(monkeypatch, 10**12)
    with pytest.raises(InputError, match=rf"{root}: the disk is full; free some space(.|\n)*To continue"):
        download_coco(root, splits=["val"], base_url=served.url)
    arrived = (root / "archives" / left).stat().st_size
    unpacked = [path.stat().st_size for path in (root / "val2017").glob("*")]
    assert arrived > 500_000
    assert 0 < len(unpacked) < 20 if size == "3m" else not unpacked
    assert set(unpacked) <= {100_000}  # no half of a file
    small_disk("8m")
    download_coco(root, splits=["val"], base_url=served.url)
    assert {name: (root / name).read_bytes() for name in images("val2017", 20)} == images("val2017", 20, 100_000)
    assert served.ranges_asked(VAL) == ([None, f"bytes={arrived}-"] if size == "1m" else [None])

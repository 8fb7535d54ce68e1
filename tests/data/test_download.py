"""Downloading COCO from a server on this machine: what is fetched, continued, compared and unpacked."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fpn_lightning.data import download
from fpn_lightning.data.coco.index import split_paths
from fpn_lightning.data.download import ARCHIVES, Archive, download_coco, main
from fpn_lightning.errors import InputError

from .coco_server import Served, coco_files, images, serve, zip_bytes

ANNOTATIONS = "/annotations/annotations_trainval2017.zip"
VAL = "/zips/val2017.zip"
TRAIN = "/zips/train2017.zip"


def table(files: dict[str, bytes]) -> tuple[Archive, ...]:
    """The archives of the tests' server."""
    return tuple(
        Archive(Path(path).stem, len(content), hashlib.sha256(content).hexdigest(), content.count(b".jpg") // 2)
        for path, content in files.items()
    )


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited between attempts; nobody waits in these tests."""
    seconds: list[float] = []
    monkeypatch.setattr(download.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = coco_files()
    monkeypatch.setattr(download, "ARCHIVES", table(files))
    with serve(files) as server:
        yield server


def replace_val(served: Served, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]) -> None:
    served.files[VAL] = zip_bytes(members)
    monkeypatch.setattr(download, "ARCHIVES", table(served.files))


def layout(root: Path) -> dict[str, list[str]]:
    return {folder.name: sorted(path.name for path in folder.iterdir()) for folder in root.iterdir()}


def contents(root: Path, members: dict[str, bytes]) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in members}


def test_table_has_the_official_numbers() -> None:
    # the rounded sizes on COCO's download page; 2014 and 2017 divide the same 123,287 images differently
    by_name = {archive.name: archive for archive in ARCHIVES}
    assert {name: round(archive.bytes / 2**30) for name, archive in by_name.items() if archive.images} == {
        "train2017": 18,
        "val2017": 1,
        "test2017": 6,
        "train2014": 13,
        "val2014": 6,
        "test2014": 6,
    }
    for year in (2014, 2017):
        assert by_name[f"train{year}"].images + by_name[f"val{year}"].images == 123_287
    assert all(len(bytes.fromhex(archive.sha256)) == 32 for archive in ARCHIVES)


@pytest.mark.parametrize(
    ("year", "splits", "expected"),
    [
        (2017, ["train", "val", "annotations"], [ANNOTATIONS, VAL, TRAIN]),
        (2014, ["val"], ["/annotations/annotations_trainval2014.zip", "/zips/val2014.zip"]),
        (2017, ["test"], ["/annotations/image_info_test2017.zip", "/zips/test2017.zip"]),
    ],
)
def test_archives_of_a_year_and_its_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: int, splits: list[str], expected: list[str]
) -> None:
    asked: list[str] = []

    def fetch(url: str, part: Path, *_: object) -> None:
        asked.append(url)
        part.touch()

    monkeypatch.setattr(download, "_check_space", lambda *_: None)
    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(download, "check", lambda *_: None)
    monkeypatch.setattr(download, "unpack", lambda *_: None)
    download_coco(tmp_path, year, splits)
    assert asked == [f"http://images.cocodataset.org{path}" for path in expected]


def test_a_finished_download_is_not_fetched_again(served: Served, tmp_path: Path) -> None:
    download_coco(tmp_path, base_url=served.url)
    assert layout(tmp_path) == {
        "train2017": [f"{i:012d}.jpg" for i in range(1, 8)],
        "val2017": [f"{i:012d}.jpg" for i in range(1, 4)],
        "annotations": ["instances_train2017.json", "instances_val2017.json"],
    }
    assert split_paths(tmp_path, "val2017")[1] == tmp_path / "val2017"
    assert contents(tmp_path, images("train2017", 7)) == images("train2017", 7)
    served.requests.clear()
    download_coco(tmp_path, base_url=served.url)
    assert served.requests == []
    (tmp_path / "val2017" / "000000000002.jpg").unlink()
    download_coco(tmp_path, base_url=served.url + "/")
    assert served.requests == [(VAL, "bytes=0-")]
    assert contents(tmp_path, images("val2017", 3)) == images("val2017", 3)


def test_an_archive_put_there_by_hand_is_used(served: Served, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "val2017.zip").write_bytes(served.files[VAL])
    download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert not served.ranges_asked(VAL)
    assert len(layout(tmp_path)["val2017"]) == 3


def test_a_cut_connection_is_continued_with_the_missing_bytes(
    served: Served, tmp_path: Path, waits: list[float]
) -> None:
    served.cuts[TRAIN] = [2000, 3000, 0, 0, 10]
    served.failures[ANNOTATIONS] = [503, 429]
    download_coco(tmp_path, splits=["train"], base_url=served.url)
    assert served.ranges_asked(TRAIN) == [f"bytes={start}-" for start in (0, 2000, 5000, 5000, 5000, 5010)]
    # One that brings something starts the count of failures again.
    assert waits == [2, 4, 1, 1, 2, 4, 1]
    assert contents(tmp_path, images("train2017", 7)) == images("train2017", 7)


def test_the_next_run_continues_after_a_server_that_gave_up(served: Served, tmp_path: Path) -> None:
    served.cuts[TRAIN] = [2000, *[0] * (download.RETRIES + 1)]
    with pytest.raises(InputError, match=rf"{TRAIN}: cannot be fetched \(the connection closed.*same command again"):
        download_coco(tmp_path, splits=["train"], base_url=served.url)
    assert (tmp_path / "archives" / "train2017.zip.part").read_bytes() == served.files[TRAIN][:2000]
    served.requests.clear()
    download_coco(tmp_path, splits=["train"], base_url=served.url)
    assert served.requests == [(TRAIN, "bytes=2000-")]
    assert contents(tmp_path, images("train2017", 7)) == images("train2017", 7)


def test_a_server_without_ranges_starts_again(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    served.cuts[VAL] = [2000]
    download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert served.ranges_asked(VAL) == ["bytes=0-", "bytes=2000-"]
    assert contents(tmp_path, images("val2017", 3)) == images("val2017", 3)


def test_a_server_without_ranges_that_always_breaks_gives_up(served: Served, tmp_path: Path) -> None:
    served.ranges = False
    served.cuts[VAL] = [2000] * 100
    with pytest.raises(InputError, match="the connection closed too early"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert len(served.ranges_asked(VAL)) == 1 + download.RETRIES + 1


def test_wrong_bytes_are_not_unpacked(served: Served, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / "val2017.zip.part").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"val2017\.zip: its SHA-256 is [0-9a-f]+, but COCO's archive has .*; delete"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert served.ranges_asked(VAL) == ["bytes=14-"]
    assert not (tmp_path / "val2017").exists()
    (archives / "val2017.zip").unlink()
    download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert contents(tmp_path, images("val2017", 3)) == images("val2017", 3)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_another_size_is_noticed_before_it_replaces_anything(
    served: Served, tmp_path: Path, ranges: bool
) -> None:
    part = tmp_path / "archives" / "val2017.zip.part"
    part.parent.mkdir()
    part.write_bytes(served.files[VAL][:2000])
    served.ranges = ranges
    served.files[VAL] = b"<html>please log in</html>" * 100
    with pytest.raises(InputError, match=r"offers \d+ bytes, but \d+ bytes of the archive are still missing"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert part.stat().st_size == 2000


def test_interrupted_unpacking_is_done_again(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, copies = shutil.copyfileobj, iter(range(100))

    def stop_at_fourth(source: object, sink: object, size: int) -> None:
        if next(copies) == 4:  # two annotation files, two images and a half
            sink.write(b"half")  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        copy(source, sink, size)  # type: ignore[type-var]

    monkeypatch.setattr(shutil, "copyfileobj", stop_at_fourth)
    arguments = ["--root", str(tmp_path), "--splits", "val", "--base-url", served.url]
    assert main(arguments) == 130
    assert layout(tmp_path)["val2017"] == ["000000000001.jpg", "000000000002.jpg"]
    served.requests.clear()
    assert main(arguments) == 0
    assert served.requests == []  # the archive was there
    assert contents(tmp_path, images("val2017", 3)) == images("val2017", 3)
    assert "archives" not in layout(tmp_path)


def test_a_file_of_the_same_name_is_not_overwritten(served: Served, tmp_path: Path) -> None:
    mine = tmp_path / "val2017" / "000000000002.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"my own")
    with pytest.raises(InputError, match=r"000000000002\.jpg differs from the file in val2017\.zip; move your file"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert mine.read_bytes() == b"my own"


def report_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))


def test_free_space_is_checked_before_anything_is_fetched(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    val, annotations = len(served.files[VAL]), len(served.files[ANNOTATIONS])
    # Archives come one after the other: the annotations' is deleted before the images' arrives.
    needed = 4 * annotations + int(1.05 * val) + val
    report_free(monkeypatch, needed - 1)
    with pytest.raises(InputError, match=rf"val2017\.zip need about {needed:,} bytes, but only {needed - 1:,} bytes"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert served.requests == []
    (tmp_path / "archives" / "val2017.zip.part").write_bytes(served.files[VAL][:1])
    download_coco(tmp_path, splits=["val"], base_url=served.url)


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
def test_a_disk_that_fills_up_anyway(
    served: Served, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, size: str, left: str
) -> None:
    """1 MiB fills up while fetching, 3 MiB while unpacking."""
    members = images("val2017", 20, 100_000)
    replace_val(served, monkeypatch, members)
    root = small_disk(size)
    report_free(monkeypatch, 10**12)
    with pytest.raises(InputError, match=rf"{root}.*(disk is full; free some|No space left on device\). Free) space"):
        download_coco(root, splits=["val"], base_url=served.url)
    arrived = (root / "archives" / left).stat().st_size
    assert arrived > 500_000
    assert {path.stat().st_size for path in (root / "val2017").glob("*")} <= {100_000}  # no half of a file
    small_disk("8m")
    download_coco(root, splits=["val"], base_url=served.url)
    assert contents(root, members) == members
    assert served.ranges_asked(VAL) == (["bytes=0-", f"bytes={arrived}-"] if size == "1m" else ["bytes=0-"])


def test_what_cannot_be_done_is_one_clear_line(
    served: Served, tmp_path: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(*arguments: str) -> str:
        assert main(["--root", str(tmp_path / "coco"), *arguments]) == 2
        return capsys.readouterr().err

    del served.files[ANNOTATIONS]
    assert f"{ANNOTATIONS}: the server answered 404 Not Found; check --base-url" in error_of("--base-url", served.url)
    assert waits == []
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert f"{url}{ANNOTATIONS}: cannot be fetched (" in error_of("--base-url", url)
    assert waits == [2, 4, 8, 16]
    assert "--base-url ftp://a is not an http" in error_of("--base-url", "ftp://a")
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}/archives: Not a directory" in error_of("--root", str(tmp_path / "file"))


def test_a_silent_server_times_out(
    tmp_path: Path, served: Served, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="timed out"):
        download_coco(tmp_path, base_url=f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_stopped_command_is_continued(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    members = images("val2017", 20, 1_000_000)
    replace_val(served, monkeypatch, members)
    served.stall = {VAL: 5_000_000}
    command = (
        # A shell that runs the tests in the background makes them, and what they start, ignore Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from fpn_lightning.data import download; from fpn_lightning.data.download import Archive; "
        f"download.ARCHIVES = {download.ARCHIVES!r}; sys.exit(download.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command, "--root", str(tmp_path), "--splits", "val", "--base-url", served.url],
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "archives" / "val2017.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 4_000_000):
        assert time.monotonic() < deadline
    process.send_signal(number)
    _, message = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert message.splitlines()[-1] == "stopped; run the same command again"
    arrived = part.stat().st_size
    served.stall = {}
    download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert served.ranges_asked(VAL) == ["bytes=0-", f"bytes={arrived}-"]
    assert contents(tmp_path, members) == members

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fpn_lightning.data import download_archives, download_http
from fpn_lightning.data.coco.index import split_paths
from fpn_lightning.data.download import COCO_URL, archives_of, download_coco, main
from fpn_lightning.errors import InputError

from .coco_server import Served, coco_files, images, serve, zip_bytes

VAL = "/zips/val2017.zip"
TRAIN = "/zips/train2017.zip"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_http, "FIRST_DELAY_S", 0.0)
    with serve(coco_files()) as server:
        yield server


def layout(root: Path) -> dict[str, list[str]]:
    return {folder.name: sorted(path.name for path in folder.iterdir()) for folder in root.iterdir()}


def test_archives_of_every_year_and_split() -> None:
    def names(year: int, *splits: str) -> list[str]:
        return [archive.url(COCO_URL) for archive in archives_of(year, splits)]

    base = "http://images.cocodataset.org"
    assert names(2017, "train", "val", "annotations") == [
        f"{base}/annotations/annotations_trainval2017.zip",
        f"{base}/zips/val2017.zip",
        f"{base}/zips/train2017.zip",
    ]
    assert names(2014, "val") == [f"{base}/annotations/annotations_trainval2014.zip", f"{base}/zips/val2014.zip"]
    assert names(2017, "test") == [f"{base}/annotations/image_info_test2017.zip", f"{base}/zips/test2017.zip"]
    for year, splits in ((2015, ["train"]), (2017, ["minival"]), (2017, [])):
        with pytest.raises(InputError, match=rf"year {year}"):
            archives_of(year, splits)


def test_whole_path_and_second_call_asks_for_nothing(served: Served, tmp_path: Path) -> None:
    download_coco(tmp_path / "coco", base_url=served.url)
    assert layout(tmp_path / "coco") == {
        "train2017": [f"{i:012d}.jpg" for i in range(1, 8)],
        "val2017": [f"{i:012d}.jpg" for i in range(1, 4)],
        "annotations": ["instances_train2017.json", "instances_val2017.json"],
        ".complete": [f"{name}.zip.txt" for name in ("annotations_trainval2017", "train2017", "val2017")],
    }
    assert split_paths(tmp_path / "coco", "val2017")[1] == tmp_path / "coco" / "val2017"
    for name, content in images("train2017", 7).items():
        assert (tmp_path / "coco" / name).read_bytes() == content
    served.requests.clear()
    download_coco(tmp_path / "coco", base_url=served.url)
    assert served.requests == []
    (tmp_path / "coco" / "val2017" / "000000000002.jpg").unlink()
    download_coco(tmp_path / "coco", base_url=served.url + "/")
    assert [name for method, name, _ in served.requests if method == "GET"] == [VAL]
    assert len(layout(tmp_path / "coco")["val2017"]) == 3


def test_cut_connection_is_continued_by_the_next_call(served: Served, tmp_path: Path) -> None:
    served.cuts[TRAIN] = [2000]
    with pytest.raises(InputError, match=r"train2017\.zip: the connection closed") as caught:
        download_coco(tmp_path, splits=["train"], base_url=served.url, retries=0)
    assert str(caught.value).endswith(
        f"To continue: python -m fpn_lightning.data.download --root {tmp_path} --year 2017 --splits train"
        f" --base-url {served.url}"
    )
    download_coco(tmp_path, splits=["train"], base_url=served.url, retries=0)
    assert served.ranges_asked(TRAIN) == [None, "bytes=2000-"]
    assert len(layout(tmp_path)["train2017"]) == 7
    assert "archives" not in layout(tmp_path)


def test_images_unpacked_by_hand_are_taken(served: Served, tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    for i in range(5000):
        (tmp_path / "val2017" / f"{i:012d}.jpg").touch()
    download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert not served.ranges_asked(VAL)


def test_kept_archives_and_archives_put_there_by_hand(served: Served, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "val2017.zip").write_bytes(served.files[VAL])
    download_coco(tmp_path, splits=["val"], base_url=served.url, keep_archives=True)
    assert not served.ranges_asked(VAL)
    assert layout(tmp_path)["archives"] == ["annotations_trainval2017.zip", "val2017.zip"]


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_pinned_checksums(served: Served, tmp_path: Path, algorithm: str) -> None:
    digest = hashlib.new(algorithm, served.files[VAL]).hexdigest()
    sums = tmp_path / "sums.txt"
    sums.write_text(f"{digest[::-1]}  val2017.zip\n")
    with pytest.raises(
        InputError, match=rf"{algorithm} is {digest} and should be {digest[::-1]}.*val2017\.zip\.broken"
    ):
        download_coco(tmp_path / "coco", splits=["val"], base_url=served.url, checksums=sums)
    assert layout(tmp_path / "coco")["archives"] == ["val2017.zip.broken"]
    assert not (tmp_path / "coco" / "val2017").exists()
    sums.write_text(f"{digest}  val2017.zip\n")
    download_coco(tmp_path / "coco", splits=["val"], base_url=served.url, checksums=sums)
    assert len(layout(tmp_path / "coco")["val2017"]) == 3


def test_an_archive_of_the_originals_size_is_held_to_its_checksum(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = download_archives.Archive("val2017.zip", len(served.files[VAL]), "0" * 64, 5000)
    monkeypatch.setitem(download_archives.ARCHIVES, "val2017.zip", archive)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"should be {'0' * 64}"):
        download_coco(tmp_path, splits=["val"], base_url=served.url)


def test_something_that_answers_in_coco_s_place_is_noticed_before_fetching(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fpn_lightning.data.download.COCO_URL", served.url)
    with pytest.raises(InputError, match=r"announces \d+ bytes, COCO's archive has 252,907,541"):
        download_coco(tmp_path, base_url=served.url)
    assert {method for method, _, _ in served.requests} == {"HEAD"}


@pytest.mark.parametrize("member", ["../evil.jpg", "/tmp/evil.jpg", "annotations/instances_val2017.json"])
def test_archive_with_foreign_members_is_set_aside(served: Served, tmp_path: Path, member: str) -> None:
    served.files[VAL] = zip_bytes(images("val2017", 2) | {member: b"evil"})
    with pytest.raises(InputError, match=r"refused, the member .*\.broken"):
        download_coco(tmp_path / "coco", splits=["val"], base_url=served.url)
    assert [path.name for path in tmp_path.rglob("*.jpg")] == []
    assert layout(tmp_path / "coco")["archives"] == ["val2017.zip.broken"]


def test_interrupted_unpacking_is_finished_not_taken_as_complete(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_third(archive: object, bundle: object, member: object, target: Path) -> None:
        if target.name == "000000000003.jpg":
            target.with_name(f".{target.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        unpack_member(archive, bundle, member, target)  # type: ignore[arg-type]

    unpack_member = download_archives._unpack_member
    monkeypatch.setattr(download_archives, "_unpack_member", stop_at_third)
    arguments = ["--root", str(tmp_path), "--splits", "val", "--base-url", served.url]
    assert main(arguments) == 130
    assert layout(tmp_path)["val2017"] == [".000000000003.jpg.part", "000000000001.jpg", "000000000002.jpg"]
    monkeypatch.setattr(download_archives, "_unpack_member", unpack_member)
    served.requests.clear()
    assert main(arguments) == 0
    assert served.requests == []  # the archive was there
    assert layout(tmp_path)["val2017"] == [f"{i:012d}.jpg" for i in (1, 2, 3)]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "images.cocodataset.org", "file:///tmp", "http://a b"])
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"--base-url .*: not an http"):
        download_coco(tmp_path, base_url=url)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fpn_lightning.data.download", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_command_line(served: Served, tmp_path: Path) -> None:
    root = str(tmp_path / "coco")
    done = run("--root", root, "--base-url", served.url)
    assert (done.returncode, layout(tmp_path / "coco")["val2017"][2]) == (0, "000000000003.jpg")
    missing = run("--root", root, "--year", "2014", "--base-url", served.url)
    assert missing.returncode == 1
    assert f"{served.url}/annotations/annotations_trainval2014.zip: the server answered 404" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert run("--root", root, "--year", "2015").returncode == 2
    file = tmp_path / "file"
    file.touch()
    assert f"{file}: File exists" in run("--root", str(file), "--base-url", served.url).stderr
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    unreachable = run("--root", str(tmp_path / "other"), "--base-url", url, "--retries", "0")
    assert unreachable.returncode == 1
    assert f"{url}/annotations/annotations_trainval2017.zip: cannot connect" in unreachable.stderr


def test_killed_run_is_continued(served: Served, tmp_path: Path) -> None:
    content = zip_bytes(images("val2017", 20, 1_000_000))
    served.files[VAL], served.stall = content, {VAL: 5_000_000}
    command = [sys.executable, "-m", "fpn_lightning.data.download", "--root", str(tmp_path), "--splits", "val"]
    process = subprocess.Popen([*command, "--base-url", served.url], stderr=subprocess.DEVNULL)
    part = tmp_path / "archives" / "val2017.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 4_000_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = part.stat().st_size
    served.stall = {}
    download_coco(tmp_path, splits=["val"], base_url=served.url)
    assert served.ranges_asked(VAL) == [None, f"bytes={arrived}-"]
    assert len(layout(tmp_path)["val2017"]) == 20

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from fpn_lightning.data.download_archives import (
    ARCHIVES,
    ArchiveError,
    check_checksum,
    is_unpacked,
    read_checksums,
    unpack,
    write_list,
)
from fpn_lightning.errors import InputError

from .coco_server import images, zip_bytes


def archive_of(tmp_path: Path, members: dict[str, bytes]) -> Path:
    path = tmp_path / "val2017.zip"
    path.write_bytes(zip_bytes(members))
    return path


def test_table_has_the_official_numbers() -> None:
    # the rounded sizes on COCO's download page; 2014 and 2017 divide the same 123,287 images differently
    gigabytes = {name: archive.bytes / 2**30 for name, archive in ARCHIVES.items() if archive.images}
    assert {name: round(size) for name, size in gigabytes.items()} == {
        "train2017.zip": 18,
        "val2017.zip": 1,
        "test2017.zip": 6,
        "train2014.zip": 13,
        "val2014.zip": 6,
        "test2014.zip": 6,
    }
    assert ARCHIVES["train2014.zip"].images + ARCHIVES["val2014.zip"].images == 123_287  # type: ignore[operator]
    assert ARCHIVES["train2017.zip"].images + ARCHIVES["val2017.zip"].images == 123_287  # type: ignore[operator]
    assert all(len(bytes.fromhex(archive.sha256)) == 32 for archive in ARCHIVES.values())


def test_unpacked_files_equal_the_members(tmp_path: Path) -> None:
    members = images("val2017", 5)
    seen: list[tuple[int, int]] = []
    names = unpack(archive_of(tmp_path, members), tmp_path, "val2017", lambda done, total: seen.append((done, total)))
    assert names == list(members)
    assert {name: (tmp_path / name).read_bytes() for name in names} == members
    assert len(list((tmp_path / "val2017").iterdir())) == 5
    assert seen == [(1000, 5000), (2000, 5000), (3000, 5000), (4000, 5000), (5000, 5000)]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "val2017/../../evil",
        "/tmp/evil",
        "C:/evil",
        "C:evil",
        "val2017\\..\\evil",
        "train2017/1.jpg",
        "evil",
        "val2017/a\x00b.jpg",
        "val2017/a\nb.jpg",
    ],
)
def test_members_that_leave_their_folder_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    harmless = "#" * len(name)  # replaced afterwards, since zipfile tidies some of these names when it writes
    content = zip_bytes(images("val2017", 2) | {harmless: b"x"}).replace(harmless.encode(), name.encode())
    (tmp_path / "val2017.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match="refused"):
        unpack(tmp_path / "val2017.zip", tmp_path, "val2017")
    assert [path.name for path in tmp_path.iterdir()] == ["val2017.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    link = zipfile.ZipInfo("val2017/link.jpg")
    link.external_attr = (kind | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("val2017/1.jpg", b"1")
        bundle.writestr(link, "/etc/passwd")
    (tmp_path / "val2017.zip").write_bytes(buffer.getvalue())
    with pytest.raises(ArchiveError, match=r"link\.jpg.*not a file"):
        unpack(tmp_path / "val2017.zip", tmp_path, "val2017")
    assert not (tmp_path / "val2017").exists()


def test_corrupt_member_is_named_and_not_written(tmp_path: Path) -> None:
    members = images("val2017", 3)
    archive = archive_of(tmp_path, members)
    content = archive.read_bytes()
    second = members["val2017/000000000002.jpg"]
    archive.write_bytes(content.replace(second, second[:500] + bytes([second[500] ^ 1]) + second[501:]))
    with pytest.raises(ArchiveError, match=r"damaged in 'val2017/000000000002\.jpg'.*CRC"):
        unpack(archive, tmp_path, "val2017")
    assert [path.name for path in (tmp_path / "val2017").iterdir()] == ["000000000001.jpg"]


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>", zip_bytes(images("val2017", 3))[:-200]])
def test_no_zip_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "val2017.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match="damaged or no zip"):
        unpack(tmp_path / "val2017.zip", tmp_path, "val2017")


def test_a_name_there_twice_is_refused(tmp_path: Path) -> None:
    content = zip_bytes({"val2017/1.jpg": b"1", "val2017/2.jpg": b"2"}).replace(b"2017/2", b"2017/1")
    (tmp_path / "val2017.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"'val2017/1\.jpg' is outside val2017/ or there twice"):
        unpack(tmp_path / "val2017.zip", tmp_path, "val2017")


def test_empty_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="holds no file in val2017/"):
        unpack(archive_of(tmp_path, {"val2017/": b""}), tmp_path, "val2017")


def test_same_files_are_kept_and_others_not_overwritten(tmp_path: Path) -> None:
    members = images("val2017", 3)
    archive = archive_of(tmp_path, members)
    unpack(archive, tmp_path, "val2017")
    first, second, third = (tmp_path / name for name in members)
    os.utime(first, (0, 0))
    second.unlink()
    third.write_bytes(b"")  # as a power cut leaves it
    unpack(archive, tmp_path, "val2017")
    assert first.stat().st_mtime == 0
    assert {name: (tmp_path / name).read_bytes() for name in members} == members
    for mine in (b"my own", b"m" * 1000):
        second.write_bytes(mine)
        with pytest.raises(InputError, match=r"000000000002\.jpg is already there and differs") as caught:
            unpack(archive, tmp_path, "val2017")
        assert not isinstance(caught.value, ArchiveError)
        assert second.read_bytes() == mine


def test_room_is_counted_in_blocks_of_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = images("val2017", 3)
    archive = archive_of(tmp_path, members)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 4096))
    with pytest.raises(InputError, match="needs 12,288 bytes and 8,192 are available"):
        unpack(archive, tmp_path, "val2017")
    assert not (tmp_path / "val2017").exists()
    (tmp_path / "val2017").mkdir()
    name = next(iter(members))
    (tmp_path / name).write_bytes(members[name])
    assert len(unpack(archive, tmp_path, "val2017")) == 3


def test_list_of_files_is_compared_with_the_disk(tmp_path: Path) -> None:
    names = [f"annotations/{kind}_val2017.json" for kind in ("instances", "captions")]
    (tmp_path / "annotations").mkdir()
    assert not is_unpacked(tmp_path, tmp_path / ".complete" / "a.txt")
    write_list(tmp_path / ".complete" / "a.txt", names)
    assert not is_unpacked(tmp_path, tmp_path / ".complete" / "a.txt")
    for name in [*names, "annotations/other.json"]:
        (tmp_path / name).touch()
    assert is_unpacked(tmp_path, tmp_path / ".complete" / "a.txt")
    (tmp_path / names[0]).unlink()
    assert not is_unpacked(tmp_path, tmp_path / ".complete" / "a.txt")


def test_checksums(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(b"abc")
    # FIPS 180-2, B.1, and RFC 1321, A.5
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    md5 = "900150983cd24fb0d6963f7d28e17f72"
    (tmp_path / "sums").write_text(f"# ours\n{sha256}  a.zip\n\n{md5.upper()} *some/folder/b.zip\n")
    found = read_checksums(tmp_path / "sums")
    assert found == {"a.zip": sha256, "b.zip": md5}
    seen: list[tuple[int, int]] = []
    for expected in found.values():
        check_checksum(file, expected, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3), (3, 3)]
    with pytest.raises(ArchiveError, match=rf"sha256 is {sha256} and should be {'0' * 64}"):
        check_checksum(file, "0" * 64, lambda done, total: None)


@pytest.mark.parametrize(
    ("text", "message"), [("abc  a.zip\n", "line 1"), (hashlib.md5().hexdigest(), "line 1"), ("", "no checksums")]
)
def test_bad_checksum_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sums").write_text(text)
    with pytest.raises(InputError, match=rf"sums.*{message}"):
        read_checksums(tmp_path / "sums")
    with pytest.raises(InputError, match="cannot read"):
        read_checksums(tmp_path / "none")

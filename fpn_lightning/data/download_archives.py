"""COCO's archives: which there are, checking one, unpacking one.

Nothing that an archive holds leaves its folder, and nothing half-written counts as there. Every member's CRC-32 is
checked while it is written. A list of what an archive held, written after the last file, says that all of it is there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fpn_lightning.errors import InputError

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 4096
COCO_URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Archive:
    """One of COCO's archives: name, size in bytes, SHA-256, number of images (None: it holds annotations)."""

    name: str
    bytes: int
    sha256: str
    images: int | None = None

    @property
    def folder(self) -> str:
        """The one folder it unpacks to."""
        return "annotations" if self.images is None else self.name.removesuffix(".zip")

    def url(self, base_url: str) -> str:
        """Its address on the server ``base_url``."""
        return f"{base_url}/{'annotations' if self.images is None else 'zips'}/{self.name}"

    @property
    def unpacked_factor(self) -> float:
        """About how many times its size it unpacks to: JPEG does not compress, COCO's JSON shrinks to 0.3."""
        return 4.0 if self.images is None else 1.05


# cocodataset.org publishes no checksums: bytes and SHA-256 are those that TensorFlow Datasets records (url_checksums).
_TABLE = (
    Archive("train2017.zip", 19336861798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 118287),
    Archive("val2017.zip", 815585330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 5000),
    Archive("test2017.zip", 6646970404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba", 40670),
    Archive("train2014.zip", 13510573713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775", 82783),
    Archive("val2014.zip", 6645013297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0", 40504),
    Archive("test2014.zip", 6660437059, "ead40c62230cb2cf70ff4c8b4c70abdc260a7556e77b3282621d06d8e2e35bdf", 40775),
    Archive(
        "annotations_trainval2017.zip", 252907541, "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"
    ),
    Archive("image_info_test2017.zip", 1144034, "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8"),
    Archive(
        "annotations_trainval2014.zip", 252872794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"
    ),
    Archive("image_info_test2014.zip", 763464, "7cecc66f6b09c1671c1896a1bcc1f35eb09b7fcf00a5c18420a5f0f5983dc8c9"),
)
ARCHIVES: Mapping[str, Archive] = {archive.name: archive for archive in _TABLE}


class ArchiveError(InputError):
    """An archive that is damaged, or holds what it should not; to be set aside and fetched again."""


def unpack(
    archive: Path, root: Path, folder: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Unpack ``archive`` into ``root``; files already there with the right content are left alone.

    Args:
        archive: zip file.
        root: folder that the members' names are relative to.
        folder: first part that every member's name must have, such as ``train2017``.
        on_progress: called with the unpacked bytes so far and in all.

    Returns:
        The files' names relative to ``root``.

    Raises:
        ArchiveError: the archive is damaged, or a member's name or kind is refused. Refusal comes before writing.
        InputError: a file that is already there differs from the archive's, or the disk has too little room.
        OSError: a file cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = _checked_members(archive, bundle, folder)
            _check_room(archive, root, members)
            total = sum(member.file_size for member in members)
            done = 0
            for parent in {(root / member.filename).parent for member in members}:
                parent.mkdir(parents=True, exist_ok=True)
            for member in members:
                _unpack_member(archive, bundle, member, root / member.filename)
                done += member.file_size
                on_progress(done, total)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{archive} is damaged or no zip file: {error}") from error
    return [member.filename for member in members]


def read_checksums(path: Path) -> dict[str, str]:
    """Read lines as ``sha256sum`` or ``md5sum`` write them: file name without folders to hex digits.

    Raises:
        InputError: the file cannot be read, has another form, or is empty.
    """
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the checksums: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}|[0-9a-fA-F]{32}) [ *](.+)", line.rstrip())
        if not match:
            raise InputError(f"{path}, line {number}: not a line of sha256sum or md5sum: {line!r}")
        found[PurePosixPath(match[2]).name] = match[1].lower()
    if not found:
        raise InputError(f"{path}: no checksums in it; write it with sha256sum")
    return found


def check_checksum(path: Path, expected: str, on_progress: Callable[[int, int], None]) -> None:
    """Compare a file with its checksum (64 hex digits: SHA-256, 32: MD5).

    Raises:
        ArchiveError: they differ.
    """
    name = {64: "sha256", 32: "md5"}[len(expected)]
    state, done, total = hashlib.new(name), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            state.update(block)
            done += len(block)
            on_progress(done, total)
    if state.hexdigest() != expected:
        raise ArchiveError(f"{path}: its {name} is {state.hexdigest()} and should be {expected}")


def write_list(path: Path, names: list[str]) -> None:
    """Record that the files ``names`` have been unpacked, all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text("\n".join(names) + "\n", encoding="utf-8")
    temporary.replace(path)


def is_unpacked(root: Path, listing: Path) -> bool:
    """Whether ``listing`` was written and every file it names is still under ``root``. One look at each folder."""
    if not listing.is_file():
        return False
    wanted: dict[str, set[str]] = {}
    for name in listing.read_text(encoding="utf-8").splitlines():
        folder, _, file_name = name.rpartition("/")
        wanted.setdefault(folder, set()).add(file_name)
    return all(names <= file_names(root / folder) for folder, names in wanted.items())


def file_names(folder: Path) -> set[str]:
    """Names of what lies in ``folder``; empty if it does not exist."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _checked_members(archive: Path, bundle: zipfile.ZipFile, folder: str) -> list[zipfile.ZipInfo]:
    members = []
    seen = set()
    for member in bundle.infolist():
        # zipfile cuts names at NUL and, on Windows, turns backslashes; the name as stored is what is judged.
        name = member.orig_filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or re.search(r"[\\\x00-\x1f]", name):
            raise ArchiveError(f"{archive}: refused, the member {name!r} would leave the folder {folder}/")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{archive}: refused, the member {name!r} is a link or a device, not a file")
        if parts[:1] != (folder,) or name in seen:
            raise ArchiveError(f"{archive}: refused, the member {name!r} is outside {folder}/ or there twice")
        seen.add(name)
        if not member.is_dir():
            members.append(member)
    if not members:
        raise ArchiveError(f"{archive} holds no file in {folder}/")
    return members


def _check_room(archive: Path, root: Path, members: list[zipfile.ZipInfo]) -> None:
    needed = sum(
        -(-member.file_size // BLOCK_BYTES) * BLOCK_BYTES
        for member in members
        if not _has_size(root / member.filename, member.file_size)
    )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise InputError(
            f"{root}: unpacking {archive.name} needs {needed:,} bytes and {free:,} are available; free some space"
        )


def _unpack_member(archive: Path, bundle: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if _has_size(target, member.file_size) and _crc(target) == member.CRC:
        return
    # An empty file is what a power cut leaves of a file of ours; anything else may be somebody's work.
    if target.is_symlink() or (target.exists() and not _has_size(target, 0)):
        raise InputError(
            f"{target} is already there and differs from the one in {archive.name}; move it away and start again"
        )
    temporary = target.with_name(f".{target.name}.part")
    try:
        with bundle.open(member) as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)
        temporary.replace(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ArchiveError(f"{archive} is damaged in {member.filename!r}: {error or 'it ends too early'}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _has_size(path: Path, size: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            value = zlib.crc32(block, value)
    return value

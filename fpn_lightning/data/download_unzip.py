"""Unpacking an archive from outside: nothing leaves its folder, nothing half-written counts as there.

Every member's CRC-32 is checked while it is written. A list of what an archive holds, written after the last file,
says that it is unpacked completely.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fpn_lightning.errors import InputError

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 4096


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
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{archive} is damaged or no zip file: {error}") from error
    return [member.filename for member in members]


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

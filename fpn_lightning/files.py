"""Writes files completely or not at all: a temporary file is written, then renamed. Also reads YAML."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from fpn_lightning.errors import InputError
from fpn_lightning.text import show

MAX_VALUES = 100_000
"""Maximum number of values in a YAML file, with aliases (``*name``) expanded. A configuration has hundreds of values.
Nested aliases of a malicious file can expand to billions of values."""
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space for {folder}"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make {folder} writable, or use another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "Use another folder"),
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
}


def check_free(path: Path, overwrite: bool) -> None:
    """Raise InputError if ``path`` exists, unless ``overwrite`` is true."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Give another path, or --overwrite to replace it")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. The temporary file is renamed to ``path`` when the ``with`` block ends.

    If the ``with`` block fails, the temporary file is deleted. Missing folders are created. If several processes write
    the same file at once, the file of the last process remains. The content is flushed to the disk before the rename.
    After a power cut, ``path`` is therefore either the complete old file or the complete new file.

    Raises:
        InputError: if the file cannot be written; see :func:`writing`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent.absolute())
        # Lock the temporary file's folder. A lock on the file would be lost, because safetensors replaces the file.
        handle, folder = _locked_temporary_folder(path)
        try:
            temporary = folder / f"part{path.suffix}"  # a search for files called ``path.name`` must not find it
            yield temporary
            temporary.chmod(0o644)  # safetensors writes files that only their owner can read
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


def set_aside(path: Path) -> None:
    """Rename an existing file, or a folder with content, so that new output does not replace it.

    ``detections.json`` is renamed to ``detections.1.json``, or to the next free number.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
        kept = next(name for name in names if not name.exists())
        path.rename(kept)
        show(f"{path} existed already and was renamed to {kept.name}")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write UTF-8 text or bytes. Another process always reads the complete old file or the complete new file."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def read_yaml(path: Path) -> Any:
    """Read a YAML file as UTF-8; see :func:`parse_yaml`.

    Raises:
        InputError: if the file cannot be read, or :func:`parse_yaml` rejects it.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path.") from error


def parse_yaml(text: str, source: object) -> Any:
    """Read YAML text without running code from it.

    Raises:
        InputError: if the text is not YAML, is nested too deeply, or has too many values. The message names ``source``.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if _count(node, {}) <= MAX_VALUES:
            return loader.construct_document(node) if node is not None else None
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply to be a configuration or a table.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    raise InputError(f"{source} has more than {MAX_VALUES:,} values. Check its aliases (*name).")


def _count(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Count the values of a YAML node, aliases expanded. A node that contains itself gives more than ``MAX_VALUES``."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # placeholder: read below only if the node contains itself
        pairs = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def open_alone(path: Path) -> BinaryIO:
    """Open an empty file for writing, and lock the file until it is closed or this process ends.

    Raises:
        InputError: if another process writes the file.
    """
    while True:
        with writing(path):
            file = path.open("ab")
        lock(file.fileno(), f"another process writes {path}")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                return file
        file.close()  # another process has just completed and renamed this file, so open a new one


def lock(handle: int, held: str) -> None:
    """Lock an open file or folder for this process; the lock ends with the process.

    Args:
        handle: file descriptor.
        held: if another process has the lock, the error message begins with this text, for example
            ``another process writes FILE``.

    Raises:
        InputError: if another process has the lock.
    """
    with suppress(OSError):  # some network file systems have no locks
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{held}: wait for this process, or stop it first") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an InputError that names ``path`` if the ``with`` block cannot write this file."""
    try:
        yield
    except OSError as error:
        if (complaint := cannot_write(error, path)) is None:
            raise
        raise complaint from error


def cannot_write(error: OSError, path: Path | None = None) -> InputError | None:
    """Return an InputError with advice if ``error`` means that a file cannot be written; otherwise return ``None``.

    Args:
        error: the error, for example from a full disk or a folder without write permission.
        path: the file; by default the file that the error names.
    """
    if error.errno not in _ADVICE:
        return None
    path = path or Path(os.fsdecode(error.filename or "a file"))
    advice = _ADVICE[error.errno].format(folder=path.parent)
    return InputError(f"{path} cannot be written ({error.strerror}). {advice}. Complete files were not changed.")


def _locked_temporary_folder(path: Path) -> tuple[int, Path]:
    """Make a temporary folder beside ``path`` and lock it. The lock ends with this process, even if it is killed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        with suppress(FileNotFoundError):  # another process deleted the folder before it was locked
            handle = os.open(folder, os.O_RDONLY)
            # Some network file systems have no locks. There, nothing shows whether another process still uses a
            # temporary folder, so the folders of killed processes are not deleted.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return handle, folder
            os.close(handle)


@cache
def _remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in ``folder``. Each process does so once, because listing a folder is slow."""
    for path in folder.glob(".*.part"):
        if _TEMPORARY.fullmatch(path.name) and path.is_dir():
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the folder is still in use
                    shutil.rmtree(path)
                finally:
                    os.close(handle)


def _sync(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot flush folders
            os.fsync(handle)
    finally:
        os.close(handle)

"""Writing files whole or not at all: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from fpn_lightning.errors import InputError

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space for {folder}"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make {folder} writable, or use another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "Use another folder"),
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` when the block ends, or removed if the block fails.

    Missing folders are made. Several processes may write the same file at once; the last one wins. The content is on
    the disk before the file gets its name, so a power cut leaves the old file or the new one.

    Raises:
        InputError: if the file cannot be written, see :func:`writing`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent.absolute())
        handle, temporary = _locked_temporary(path)
        try:
            yield temporary
            temporary.chmod(0o644)  # mkstemp's files are private
            os.fsync(handle)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write UTF-8 text or bytes; a reader sees the old file or the new one, never half of it."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report it as an ``InputError`` with the path if the block cannot write to ``path``."""
    try:
        yield
    except OSError as error:
        if (complaint := cannot_write(error, path)) is None:
            raise
        raise complaint from error


def cannot_write(error: OSError, path: Path | None = None) -> InputError | None:
    """Say which file could not be written and what to do; ``None`` if the error has another reason.

    Args:
        error: of a full disk, of a file that is too large, or of a folder that may not be written to.
        path: the file; by default the one that the error names.
    """
    if error.errno not in _ADVICE:
        return None
    path = path or Path(os.fsdecode(error.filename or "a file"))
    advice = _ADVICE[error.errno].format(folder=path.parent)
    return InputError(f"{path} cannot be written ({error.strerror}). {advice}; finished files are unharmed.")


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """Make a temporary file beside ``path`` and lock it. The lock ends with this process, also after a kill."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with suppress(OSError):  # some network file systems have no locks; nothing is removed there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


@cache
def _remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed processes; once for each folder, since it may hold many files."""
    for path in folder.glob(".*.part"):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if the writer is alive
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot do this for folders
            os.fsync(handle)
    finally:
        os.close(handle)

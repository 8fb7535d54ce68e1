"""Writing files atomically: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fpn_lightning.errors import InputError


def check_free(path: Path, overwrite: bool) -> None:
    """Raise InputError if a file exists that is not to be overwritten; it may have taken hours to make."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Give another path, or --overwrite to replace it")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` when the block ends, or removed if the block fails.

    Missing folders are made. Several processes may write the same file at once; the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write UTF-8 text or bytes; a reader sees the old file or the new one, never half of it."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)

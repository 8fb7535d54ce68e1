"""Writing files atomically, under a temporary name in the same folder, then renamed; and reading YAML."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fpn_lightning.errors import InputError

MAX_VALUES = 100_000
"""Values in a YAML file. A configuration has hundreds; aliases of aliases can stand for billions."""


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


def read_yaml(path: Path) -> Any:
    """Read a YAML file as UTF-8; see :func:`parse_yaml`.

    Raises:
        InputError: if it cannot be read.
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
        InputError: if it is not YAML, is nested too deeply, or has too many values. Names the source.
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
    """Number of values below a node if every alias is written out; more than the limit for one that contains itself."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # until it is known: what a node that contains itself finds
        pairs = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]

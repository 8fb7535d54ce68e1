"""Read and write the index file, which stores the content of a COCO annotation file as arrays.

The index is one safetensors file. All training processes and data-loading workers map this file read-only, so the
arrays are in memory only once. An existing index is used if it is complete, has the current format version, and records
the current size and modification time of the annotation file. Otherwise the index is built again.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fpn_lightning.data.coco.annotations import Arrays, read_annotations
from fpn_lightning.errors import InputError
from fpn_lightning.files import whole_file

FORMAT = "fpn_lightning COCO index"
VERSION = 5
DTYPES = {"I64": "int64", "F64": "float64", "BOOL": "bool", "U8": "uint8"}  # safetensors dtype: NumPy dtype
# If a file changes twice within the resolution of the file system's clock, its modification time does not show the
# second change. So an index records the modification time only if it is at least SETTLED_NS ns in the past. An index
# without a modification time is built again by the next call.
SETTLED_NS = 2_000_000_000
SLOW = 10_000_000  # bytes; a log message announces that building the index of a larger annotation file takes a while

logger = logging.getLogger(__name__)


def open_index(annotation_file: Path) -> tuple[dict[str, Any], Arrays]:
    """Memory-map the index of an annotation file; build the index first if it is missing or out of date.

    Returns:
        ``(facts, arrays)`` of :func:`fpn_lightning.data.coco.annotations.read_annotations`. ``facts`` also has
        ``sha256``, the SHA-256 digest of the annotation file. The arrays are read-only views of the mapped file.

    Raises:
        InputError: the annotation file is missing or invalid, or the index cannot be written to any folder.
    """
    try:
        stat = annotation_file.stat()
        places = _places(annotation_file)
        for path in places:
            index = _read(path)
            if index is not None and (index[0]["size"], index[0]["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
                return index
        settled = abs(time.time_ns() - stat.st_mtime_ns) > SETTLED_NS
        content = annotation_file.read_bytes()
    except OSError as error:
        raise InputError(f"{annotation_file}: cannot read this file ({error.strerror}); check its path") from error
    if len(content) > SLOW:
        logger.info("Building the index of %s (%.0f MB; only once) ...", annotation_file, len(content) / 1e6)
    gc.disable()  # garbage collection would double the time: it visits millions of small lists and frees none
    try:
        facts, arrays = read_annotations(annotation_file, content)
    finally:
        gc.enable()
    facts |= {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(content).hexdigest()}
    facts |= {"size": len(content), "mtime_ns": stat.st_mtime_ns if settled else None}
    for path in places:
        # Writing can fail although the folder looks writable (full disk, read-only mount); then try the next folder.
        with contextlib.suppress(OSError, InputError, SafetensorError):
            with whole_file(path) as temporary:
                save_file(arrays, temporary, metadata={"facts": json.dumps(facts)})
            if (index := _read(path)) is not None:
                return index
    raise InputError(
        f"{annotation_file}: the index of this file cannot be written to the file's folder or to the cache folder; set "
        "FPN_LIGHTNING_CACHE to a writable folder"
    )


def _places(annotation_file: Path) -> list[Path]:
    """Return possible index paths: first in the annotation file's folder (if writable), then in the cache folder."""
    folder = annotation_file.parent
    cache = Path(os.environ.get("FPN_LIGHTNING_CACHE") or Path.home() / ".cache" / "fpn_lightning").expanduser()
    key = hashlib.sha256(os.fsencode(annotation_file.resolve())).hexdigest()[:16]
    places = [cache / f"{annotation_file.name}-{key}.index"]
    # os.access is always true for the superuser. The permission bits are checked too, so that the superuser writes no
    # index into a folder that is read-only for all users.
    if os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
        places.insert(0, folder / f".{annotation_file.name}.index")
    return places


def _read(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """Return the index at ``path``, or None if the file is missing, incomplete or has another format version."""
    try:
        # The file is read without the safetensors library: its NumPy reader copies the arrays, and its PyTorch reader
        # imports torch, which needs 600 MiB of memory.
        mapped = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
        header = json.loads(mapped[8:start].tobytes())
        facts = json.loads(header.pop("__metadata__")["facts"])
        whole = start + max(entry["data_offsets"][1] for entry in header.values()) == len(mapped)
        if not whole or (facts["format"], facts["version"]) != (FORMAT, VERSION):
            return None
        arrays = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            data = mapped[start + first : start + last]
            arrays[name] = data.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return facts, arrays

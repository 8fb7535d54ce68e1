"""The memory-mapped file behind a COCO index: where it lies, when it is used, how it is written.

The arrays lie in one safetensors file that every worker and rank maps read-only, so that they share its memory. The
file is used if it is whole and of this version, and if the annotation file still has the size and the modification time
that are noted in it. Otherwise it is built again.
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
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fpn_lightning.data.coco.annotations import read_annotations
from fpn_lightning.errors import InputError
from fpn_lightning.files import whole_file

FORMAT = "fpn_lightning COCO index"
VERSION = 5
DTYPES = {"I64": "int64", "F64": "float64", "BOOL": "bool", "U8": "uint8"}  # safetensors' names
# A file that changes twice within the clock's grain keeps its time, so the time of a younger file proves nothing.
SETTLED_NS = 2_000_000_000
SLOW = 10_000_000  # bytes that take more than a moment to index

logger = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]


def open_index(annotation_file: Path) -> tuple[dict[str, Any], Arrays]:
    """Map the index of an annotation file; build it first if there is none or it is out of date.

    Returns:
        ``(facts, arrays)``: those of :func:`fpn_lightning.data.coco.annotations.read_annotations` and, in ``facts``,
        ``sha256`` of the annotation file. The arrays are read-only views of the mapped file.

    Raises:
        InputError: the annotation file is missing or wrong, or no folder for the index can be written to.
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
        raise InputError(f"{annotation_file}: cannot read the annotation file ({error.strerror})") from error
    if len(content) > SLOW:
        logger.info("Indexing %s (once; %.0f MB) ...", annotation_file, len(content) / 1e6)
    gc.disable()  # looking for garbage among millions of small lists, all alive, would take half the time
    try:
        facts, arrays = read_annotations(annotation_file, content)
    finally:
        gc.enable()
    facts |= {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(content).hexdigest()}
    facts |= {"size": len(content), "mtime_ns": stat.st_mtime_ns if settled else None}
    for path in places:
        # A folder that looks writable may still be full or on a read-only mount: the next place is tried.
        with contextlib.suppress(OSError, InputError, SafetensorError):
            with whole_file(path) as temporary:
                save_file(arrays, temporary, metadata={"facts": json.dumps(facts)})
            if (index := _read(path)) is not None:
                return index
    raise InputError(
        f"{annotation_file}: there is no place for its index; set FPN_LIGHTNING_CACHE to a folder that can be "
        "written to"
    )


def _places(annotation_file: Path) -> list[Path]:
    """Beside the annotation file if that folder can be written to, then the cache folder."""
    folder = annotation_file.parent
    cache = Path(os.environ.get("FPN_LIGHTNING_CACHE") or Path.home() / ".cache" / "fpn_lightning").expanduser()
    key = hashlib.sha256(os.fsencode(annotation_file.resolve())).hexdigest()[:16]
    places = [cache / f"{annotation_file.name}-{key}.index"]
    # Permission bits too: root may write anywhere, but a folder closed to everybody is meant to stay as it is.
    if os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
        places.insert(0, folder / f".{annotation_file.name}.index")
    return places


def _read(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """The index at ``path``, or None if it is missing, not whole or of another version."""
    try:
        # Mapped by hand: safetensors' NumPy reader copies, its PyTorch reader maps but takes 600 MiB of imports.
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

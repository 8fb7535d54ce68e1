"""The memory-mapped file behind a COCO index: where it lies, when it is trusted, how it is written.

The arrays lie in one safetensors file, mapped read-only by every worker and rank, so that they share its pages.
The file is trusted when it is complete, of this version and belongs to the annotation file at hand: same size and
same modification time, or same content. Its own modification time is set to that of the annotation file, which
tells the usual case apart without reading either.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fpn_lightning.data.coco.annotations import read_annotations
from fpn_lightning.errors import InputError

FORMAT = "fpn_lightning COCO index"
VERSION = 2
# name -> (dtype, shape after the first axis, which count the first axis has)
LAYOUT: dict[str, tuple[str, tuple[int, ...], str]] = {
    "image_ids": ("int64", (), "images"),
    "sizes": ("int64", (2,), "images"),
    "file_names": ("uint8", (), "file_name_offsets"),
    "file_name_offsets": ("int64", (), "images + 1"),
    "object_offsets": ("int64", (), "images + 1"),
    "annotation_ids": ("int64", (), "object_offsets"),
    "boxes_xywh": ("float64", (4,), "object_offsets"),
    "areas": ("float64", (), "object_offsets"),
    "is_crowd": ("bool", (), "object_offsets"),
    "labels": ("int64", (), "object_offsets"),
    "segmentations": ("uint8", (), "segmentation_offsets"),
    "segmentation_offsets": ("int64", (), "objects + 1"),
}
CODES = {"int64": "I64", "float64": "F64", "bool": "BOOL", "uint8": "U8"}  # safetensors' names
# A file changed again within the clock's grain keeps its time; younger files are compared by content.
SETTLED_NS = 2_000_000_000

logger = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]


def open_index(annotation_file: Path) -> tuple[dict[str, Any], Arrays]:
    """Map the index of an annotation file, building it first where there is none to trust.

    Returns:
        ``(facts, arrays)``: those of :func:`fpn_lightning.data.coco.annotations.read_annotations` and, in ``facts``,
        ``sha256`` of the annotation file. The arrays are read-only views of the mapped file.

    Raises:
        InputError: the annotation file is missing or wrong, or no folder for the index can be written to.
    """
    try:
        stat = annotation_file.stat()
        for path in _places(annotation_file):
            if (index := _read(path)) is not None and _belongs(path, index[0], annotation_file, stat):
                return index
        content = annotation_file.read_bytes()
    except OSError as error:
        raise InputError(f"{annotation_file}: cannot read the annotation file ({error.strerror})") from error
    logger.info("Indexing %s (once; %.0f MB) ...", annotation_file, len(content) / 1e6)
    with _without_garbage_collection():
        facts, arrays = read_annotations(annotation_file, content)
    facts |= {"format": FORMAT, "version": VERSION, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for path in _places(annotation_file):
        # A folder that looks writable may still be full or on a read-only mount: the next place is tried.
        with contextlib.suppress(OSError, SafetensorError):
            _write(path, facts, arrays, stat)
            if (index := _read(path)) is not None:
                return index
    raise InputError(
        f"{annotation_file}: no place for its index; set FPN_LIGHTNING_CACHE to a folder that can be written to"
    )


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # Millions of small lists are born and none dies: looking for garbage among them would take half the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _places(annotation_file: Path) -> list[Path]:
    """Beside the annotation file where that folder can be written to, then the cache folder."""
    folder = annotation_file.parent
    cache = Path(os.environ.get("FPN_LIGHTNING_CACHE") or Path.home() / ".cache" / "fpn_lightning").expanduser()
    key = hashlib.sha256(os.fsencode(annotation_file.resolve())).hexdigest()[:16]
    places = [cache / f"{annotation_file.name}-{key}.index"]
    # Permission bits too: root may write anywhere, but a folder closed to everybody is meant to stay as it is.
    if os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
        places.insert(0, folder / f".{annotation_file.name}.index")
    return places


def _belongs(path: Path, facts: dict[str, Any], annotation_file: Path, stat: os.stat_result) -> bool:
    if facts["size"] != stat.st_size:
        return False
    if path.stat().st_mtime_ns == stat.st_mtime_ns:
        return True
    with annotation_file.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]
    if same:
        _stamp(path, stat)
    return same


def _stamp(path: Path, stat: os.stat_result) -> None:
    # 0 for a file too young to be known by its time: left alone, the index may get the very time the file has.
    stamp = stat.st_mtime_ns if time.time_ns() - stat.st_mtime_ns > SETTLED_NS else 0
    with contextlib.suppress(OSError):
        os.utime(path, ns=(stamp, stamp))


def _write(path: Path, facts: dict[str, Any], arrays: Arrays, stat: os.stat_result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(arrays, temporary, metadata={"facts": json.dumps(facts)})
        temporary.chmod(0o644)
        _stamp(temporary, stat)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """The index at ``path``, or None where there is none that can be trusted."""
    try:
        # Mapped by hand: safetensors' NumPy reader copies, its PyTorch reader maps but takes 600 MiB of imports.
        mapped = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
        header = json.loads(mapped[8:start].tobytes())
        facts = json.loads(header.pop("__metadata__")["facts"])
        if (facts["format"], facts["version"]) != (FORMAT, VERSION) or set(header) != set(LAYOUT):
            return None
        if start + max(entry["data_offsets"][1] for entry in header.values()) != len(mapped):
            return None
        arrays = {name: _array(mapped[start:], header[name], LAYOUT[name][0]) for name in LAYOUT}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return (facts, arrays) if _consistent(arrays) else None


def _array(data: NDArray[np.uint8], entry: dict[str, Any], dtype: str) -> NDArray[Any]:
    if entry["dtype"] != CODES[dtype]:
        raise ValueError(f"expected {dtype}, found {entry['dtype']}")
    first, last = entry["data_offsets"]
    return data[first:last].view(dtype).reshape(entry["shape"])


def _consistent(arrays: Arrays) -> bool:
    """Whether shapes and offsets fit together, so that no lookup can go astray."""
    counts = {"images": len(arrays["image_ids"]), "objects": len(arrays["annotation_ids"])}
    counts |= {f"{name} + 1": count + 1 for name, count in list(counts.items())}
    for name in ("file_name_offsets", "object_offsets", "segmentation_offsets"):
        offsets = arrays[name]
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            return False
        counts[name] = int(offsets[-1])
    return all(arrays[name].shape == (counts[count], *shape) for name, (_, shape, count) in LAYOUT.items())

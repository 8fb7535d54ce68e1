"""Generate the synthetic data set: images with annotation files in COCO's format.

    python -m fpn_lightning.data.synthetic --root data/synthetic

The data set has eleven categories. Like COCO, it has gaps in the category ids, crowd regions, images without objects,
polygons, run-length codes, and about the same proportions of small, medium and large objects. An image depends only on
seed, split, index and size, not on the number of workers or images.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from rich.progress import track

from fpn_lightning.data.synthetic.annotations import file_name, image_id, instances, to_annotation
from fpn_lightning.data.synthetic.contact_sheet import save_contact_sheet
from fpn_lightning.data.synthetic.scene import draw_scene
from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole

# Increase this number when the drawing code changes. A data set with another version is handled like a data
# set with other settings: ``generate`` rejects it, or replaces it if ``overwrite`` is true.
_VERSION = 1
_FINISHED = "synthetic.json"
_UNFINISHED = "synthetic.unfinished.json"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_OPTIMIZE, 1]


def generate(
    root: str | Path,
    splits: Mapping[str, int],
    size: int = 160,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Generate the data set in ``root``. Do nothing if ``root`` already has a data set with the same settings.

    Writes ``annotations/instances_<split>.json`` and ``<split>/<image id, 12 digits>.jpg`` for every split, and
    ``contact_sheet.png``. After an interruption, the next call starts from the beginning.

    Args:
        root: folder of the data set; created if missing.
        splits: number of images of each split. The contact sheet shows the first split.
        size: side of the square images, pixels, 64 to 1024.
        seed: random seed, from 0 to 2^32 - 1.
        workers: number of processes, by default one per core. Any number of processes gives the same files.
        overwrite: replace a data set with other settings.
        progress: show a progress bar.

    Raises:
        InputError: a setting is out of range; or ``root`` contains other files; or ``root`` contains a data set with
            other settings, and ``overwrite`` is false.
    """
    settings = {"version": _VERSION, "seed": seed, "size": size, "splits": dict(splits)}
    _check_settings(settings)
    if workers is not None and workers < 1:
        raise InputError(f"workers {workers}: give at least 1")
    root = Path(root)
    finished, unfinished = root / _FINISHED, root / _UNFINISHED
    present = _present_settings(root)
    if present == settings and finished.exists() and all(path.is_file() for path in _files(root, settings)):
        return
    if present not in (None, settings):
        _remove(root, present, settings, overwrite)
    write_whole(unfinished, json.dumps(settings, indent=1))
    finished.unlink(missing_ok=True)
    for split, count in splits.items():
        results = _map(partial(_draw_image, root, split, seed, size), count, workers)
        annotations = list(track(results, f"{root / split}", total=count, disable=not progress))
        description = f"fpn_lightning synthetic, {size} px, seed {seed}"
        content = instances(description, size, [image_id(index) for index in range(count)], annotations)
        write_whole(_annotation_path(root, split), json.dumps(content, separators=(",", ":")))
        if split == next(iter(splits)):
            save_contact_sheet(root, split, content)
    unfinished.replace(finished)


def _check_settings(settings: dict[str, Any]) -> None:
    splits, size, seed = settings["splits"], settings["size"], settings["seed"]
    if not 64 <= size <= 1024:
        raise InputError(f"size {size}: give an image side from 64 to 1024 pixels")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: give a whole number from 0 to 2^32 - 1")
    if not splits:
        raise InputError("splits: none given; name at least one, for instance train=100")
    for name, count in splits.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name == "annotations":
            raise InputError(f"split {name!r}: use letters, digits and _ only, and not the name 'annotations'")
        if count < 1:
            raise InputError(f"split {name!r}: {count} images asked for; give at least 1 or leave the split out")


def _present_settings(root: Path) -> Any:
    """Return the settings of the finished or unfinished data set in ``root``; None if ``root`` is empty or missing."""
    marker = root / (_FINISHED if (root / _FINISHED).exists() else _UNFINISHED)
    if not marker.exists():
        if root.is_file() or (root.exists() and any(root.iterdir())):
            raise InputError(f"{root} holds other files and no {_FINISHED}: give a new or an empty folder as root")
        return None
    try:
        present = json.loads(marker.read_text(encoding="utf-8"))
        _check_settings(present)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{marker} cannot be read ({error}): delete {root} or give another root") from error
    return present


def _remove(root: Path, present: dict[str, Any], settings: dict[str, Any], overwrite: bool) -> None:
    """Remove the files of a data set with other settings. Raise InputError if ``overwrite`` is false."""
    if not overwrite:
        differ = [key for key in settings if present.get(key) != settings[key]]
        differences = "; ".join(f"{key} is {present.get(key)}, not {settings[key]}" for key in differ)
        raise InputError(
            f"{root} holds a generated data set with other settings ({differences}): "
            "give another root, or --overwrite to replace it"
        )
    if (root / _FINISHED).exists():
        (root / _FINISHED).replace(root / _UNFINISHED)
    for path in _files(root, present):
        path.unlink(missing_ok=True)


def _files(root: Path, settings: dict[str, Any]) -> Iterator[Path]:
    for split, count in settings["splits"].items():
        yield _annotation_path(root, split)
        yield from (_image_path(root, split, index) for index in range(count))


def _annotation_path(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _image_path(root: Path, split: str, index: int) -> Path:
    return root / split / file_name(image_id(index))


def _draw_image(root: Path, split: str, seed: int, size: int, index: int) -> list[dict[str, Any]]:
    """Draw and save one image and return its annotations, without ids."""
    scene = draw_scene(seed, split, index, size)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(scene.pixels, cv2.COLOR_RGB2BGR), _JPEG)
    write_whole(_image_path(root, split, index), encoded.tobytes())
    return [to_annotation(item) for item in scene.objects]


def _map(
    draw: Callable[[int], list[dict[str, Any]]], count: int, workers: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Yield ``draw(0)`` to ``draw(count - 1)`` in order, computed by several processes with one thread each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, -(-count // 16))
    # Drawing is fastest with one OpenCV thread per process. A process that is forked while OpenCV has threads may hang.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        if workers == 1:
            yield from map(draw, range(count))
            return
        # On Linux, fork the workers, so that they do not have to import the package again.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            yield from pool.map(draw, range(count), chunksize=16)
    finally:
        cv2.setNumThreads(threads)

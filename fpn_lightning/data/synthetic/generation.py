"""The embedded data set: generated images with annotation files in COCO's format, on disk.

    python -m fpn_lightning.data.synthetic --root data/synthetic

Reader, loader and evaluator run on it as they run on COCO: eleven categories with gaps in their ids, crowd regions,
images without objects, polygons and run-length codes, and the size classes in about COCO's proportions. An image is a
function of (seed, split, index, size) alone, whatever the number of workers or images.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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

_VERSION = 1  # of the drawings: data sets of different versions are different data sets
_FINISHED = "synthetic.json"
_UNFINISHED = "synthetic.unfinished.json"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
_DEFAULT_SPLITS = {"train": 2000, "val": 250}


@dataclass(frozen=True)
class _Settings:
    """What a data set is a function of."""

    version: int
    seed: int
    size: int
    splits: dict[str, int]

    def check(self) -> None:
        if not 64 <= self.size <= 1024:
            raise InputError(f"size {self.size}: give an image side from 64 to 1024 pixels")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed}: give a whole number from 0 to 2^32 - 1")
        if not self.splits:
            raise InputError("splits: none given; name at least one, for instance train=100")
        for name, count in self.splits.items():
            if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name == "annotations":
                raise InputError(f"split {name!r}: use letters, digits and _ only, and not the name 'annotations'")
            if count < 1:
                raise InputError(f"split {name!r}: {count} images asked for; give at least 1 or leave the split out")


def generate(
    root: str | Path,
    splits: Mapping[str, int] | None = None,
    size: int = 160,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Generate the data set under ``root``, or keep what is there if it was made with the same settings.

    Writes ``annotations/instances_<split>.json`` and ``<split>/<image id, 12 digits>.jpg`` for every split, and
    ``contact_sheet.png``. An interrupted generation is done again from the start by the next call.

    Args:
        root: folder of the data set; created if missing, refused if it holds anything else.
        splits: images per split; by default 2,000 ``train`` and 250 ``val``.
        size: side of the square images, pixels, 64 to 1024.
        seed: another seed is another data set.
        workers: processes that draw; by default one per available core. Has no influence on the files.
        overwrite: replace a data set of other settings instead of refusing.
        progress: show a progress bar.

    Raises:
        InputError: a setting is out of range, ``root`` holds other files, or a data set of other settings.
    """
    wanted = _Settings(_VERSION, seed, size, dict(_DEFAULT_SPLITS if splits is None else splits))
    wanted.check()
    if workers is not None and workers < 1:
        raise InputError(f"workers {workers}: give at least 1")
    root = Path(root)
    if _find_present(root, wanted, overwrite) == wanted and _is_complete(root, wanted):
        return
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / _UNFINISHED, json.dumps(asdict(wanted), indent=1).encode())
    (root / _FINISHED).unlink(missing_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for split, count in wanted.splits.items():
        (root / split).mkdir(exist_ok=True)
        with _draw_images(partial(_draw_image, root, split, seed, size), count, workers) as results:
            tracked = track(results, f"{root / split}", total=count, disable=not progress)
            annotations = list(tracked)
        description = f"fpn_lightning synthetic, {size} px, seed {seed}"
        content = instances(description, size, [image_id(index) for index in range(count)], annotations)
        write_whole(_annotation_path(root, split), json.dumps(content, separators=(",", ":")).encode())
    save_contact_sheet(root, next(iter(wanted.splits)))
    (root / _UNFINISHED).replace(root / _FINISHED)


def _find_present(root: Path, wanted: _Settings, overwrite: bool) -> _Settings | None:
    """Return the settings of a finished data set; refuse or remove what does not fit, finished or not."""
    finished = root / _FINISHED
    marker = finished if finished.exists() else root / _UNFINISHED
    if not marker.exists():
        if root.is_file() or (root.exists() and any(root.iterdir())):
            raise InputError(f"{root} holds other files and no {_FINISHED}: give a new or an empty folder as root")
        return None
    try:
        present = _Settings(**json.loads(marker.read_text()))
        present.check()
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{marker} cannot be read ({error}): delete {root} or give another root") from error
    if present == wanted:
        return present if marker == finished else None
    if not overwrite:
        there, asked = asdict(present), asdict(wanted)
        differences = [f"{key} is {there[key]}, asked for {asked[key]}" for key in asked if there[key] != asked[key]]
        raise InputError(
            f"{root} holds a generated data set with other settings ({'; '.join(differences)}): "
            "give another root, or --overwrite to replace it"
        )
    marker.replace(root / _UNFINISHED)  # from here on the old data set is no longer complete
    for path in _files(root, present):
        path.unlink(missing_ok=True)
    return None


def _files(root: Path, settings: _Settings) -> Iterator[Path]:
    for split, count in settings.splits.items():
        yield _annotation_path(root, split)
        yield from (_image_path(root, split, index) for index in range(count))


def _is_complete(root: Path, settings: _Settings) -> bool:
    return all(path.is_file() for path in _files(root, settings))


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


@contextmanager
def _draw_images(
    draw: Callable[[int], list[dict[str, Any]]], count: int, workers: int | None
) -> Iterator[Iterator[list[dict[str, Any]]]]:
    """Give the results of ``draw`` for 0 to ``count`` - 1 in order, without OpenCV's own threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, (count + 15) // 16)
    if workers == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield map(draw, range(count))
        finally:
            cv2.setNumThreads(threads)
        return
    # Forking spares every worker the import of PyTorch; only OpenCV and numpy run in them.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield pool.map(draw, range(count), chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)

"""Checks of a split before its first image is used, so that a run does not stop at the thousandth step.

docs/data.md says what is checked when. At COCO's 118k images this takes a second or two: masks were checked when the
index was built, missing files show in a listing of the folder, and headers are read of a bounded number of images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from numpy.typing import NDArray

from fpn_lightning.data.coco.areas import area_remarks
from fpn_lightning.data.coco.boxes import boxes_fault
from fpn_lightning.data.coco.index import MASKS_NEEDED, COCOIndex, split_paths
from fpn_lightning.data.dataset import COCODataset
from fpn_lightning.data.images import check_header
from fpn_lightning.errors import MOST, InputError, listed

MAX_HEADERS = 2000  # images whose headers are read; in larger splits they are evenly spread
THREADS = 16  # in parallel, because a network disk answers many requests in the time of one


def check_split(
    root: str, split: str, key: str, with_masks: bool, open_dataset: Callable[[], COCODataset]
) -> Sequence[str]:
    """Find all faults of a split that can be found without decoding images, and warn of possible faults.

    Args:
        root: the data set's folder.
        split: name of the split.
        key: configuration key that names it. A ``val_split`` needs annotations; ``train_split`` is checked when opened.
        with_masks: whether objects need masks.
        open_dataset: opens the split for use, which may find further problems.

    Returns:
        One message for each kind of problem.
    """
    try:
        annotation_file, images = split_paths(root, split)
        index = COCOIndex.open(annotation_file)
    except InputError as error:
        return error.problems
    problems: list[str] = []
    if key == "data.val_split" and not index.has_annotations:
        problems.append(f"{annotation_file} has no annotations to evaluate with; choose another data.val_split")
    places = np.arange(len(index))
    try:
        places = open_dataset().places
    except InputError as error:
        problems += error.problems
    found, remarks = split_findings(index, images, places, with_masks and index.has_annotations)
    for remark in remarks:
        rank_zero_warn(remark)
    # Boxes in the wrong form may be why no object can be trained on, and are named there.
    return problems + [new for new in found if not any(new.partition(": ")[2] in problem for problem in problems)]


def split_findings(
    index: COCOIndex, image_folder: Path, places: NDArray[np.int64], with_masks: bool
) -> tuple[list[str], list[str]]:
    """Check the images of a split that are used, and their masks.

    Args:
        index: the split's annotations.
        image_folder: folder of its image files.
        places: int64, places in the index of the images that are used.
        with_masks: whether objects need masks.

    Returns:
        ``(problems, remarks)``, one message for each kind. With a problem the split cannot be used; a remark says what
        may be meant otherwise.
    """
    missing = _missing_files(index, image_folder, places)
    problems = [*(_mask_problems(index, places) if with_masks else []), *_file_problems(index, image_folder, missing)]
    there = np.setdiff1d(places, missing)
    damaged, remarks = _headers(index, image_folder, there)
    if fault := boxes_fault(index.objects.boxes_xywh, index.sizes[index.object_places]):
        problems.append(f"{index.annotation_file}: {fault}")
    return problems + damaged, [*remarks, *area_remarks(index)]


def _mask_problems(index: COCOIndex, places: NDArray[np.int64]) -> list[str]:
    faulty = np.flatnonzero(~index.has_mask)
    faulty = faulty[np.isin(index.object_places[faulty], places)]
    if not faulty.size:
        return []
    others = index.objects.annotation_ids[faulty[1:]].tolist()
    more = f"; {len(others)} others lack one too: {listed(others)}" if others else ""
    return [f"{index.annotation_file}: {index.mask_fault(int(faulty[0]))}; {MASKS_NEEDED}{more}"]


def _missing_files(index: COCOIndex, image_folder: Path, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of images whose file is missing from the listing of its folder."""
    folders: dict[str, set[str]] = {}
    missing = []
    for place in places.tolist():
        folder, name = os.path.split(os.path.normpath(index.file_name(place)))
        if folder not in folders:
            path = image_folder / folder
            folders[folder] = {file.name for file in path.iterdir()} if path.is_dir() else set()
        if name not in folders[folder]:
            missing.append(place)
    return np.array(missing, dtype=np.int64)


def _file_problems(index: COCOIndex, image_folder: Path, missing: NDArray[np.int64]) -> list[str]:
    if not missing.size:
        return []
    names = [index.file_name(place) for place in missing.tolist()]
    shown = [f"{name} (image {index.image_ids[place]})" for name, place in zip(names, missing.tolist(), strict=True)]
    # Some tools write the folders of the computer that they run on into 'file_name'.
    without = sum((image_folder / PureWindowsPath(name).name).is_file() for name in names[:MOST])
    advice = (
        "files of these names are there without a folder: leave the folder out of 'file_name'"
        if without
        else f"put them there, or leave them out of {index.annotation_file.name}"
    )
    return [f"{image_folder}: {len(missing)} of {len(index)} images are missing: {listed(shown)}; {advice}"]


def _headers(index: COCOIndex, image_folder: Path, places: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Return problems and remarks that the headers of image files show."""
    if len(places) > MAX_HEADERS:
        places = places[np.linspace(0, len(places) - 1, MAX_HEADERS).astype(np.int64)]

    def look(place: int) -> int | tuple[str, str]:
        name, image_id, (height, width) = (
            index.file_name(place),
            int(index.image_ids[place]),
            index.sizes[place].tolist(),
        )
        try:
            return check_header(image_folder / name, (height, width), image_id)
        except InputError as error:
            return f"{name} (image {image_id})", str(error)

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(look, places.tolist()))
    problems = [answer for answer in answers if isinstance(answer, tuple)]
    turned = sum(answer not in (0, 1) for answer in answers if isinstance(answer, int))
    remarks = [
        f"{image_folder}: {turned} of the {len(places)} images looked at have an EXIF orientation. It is not applied: "
        "COCO's boxes belong to the pixels as stored. If yours belong to the turned images, store them turned, without "
        "the tag"
    ]
    return _by_cause(problems), remarks if turned else []


def _by_cause(problems: list[tuple[str, str]]) -> list[str]:
    """Return one message per cause: the problem of the first image, and the names of the other images."""
    causes: dict[str, list[tuple[str, str]]] = {}
    for name, problem in problems:
        cause = re.sub(r"\d+", "", problem.rpartition(f"{name}: ")[2])
        causes.setdefault(cause, []).append((name, problem))
    messages = []
    for (_, problem), *others in causes.values():
        names = listed([name for name, _ in others])
        messages.append(f"{problem}; {len(others)} others are wrong in the same way: {names}" if others else problem)
    return messages

"""Check a split before training or evaluation starts, so that a fault does not stop a run after hours.

docs/data.md lists all checks. The checks of COCO's 118k training images take one or two seconds. Masks are not
checked again: the index of the annotation file records which masks are invalid. Missing image files are found by
listing the image folder. At most 2000 image headers are read.
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

MAX_HEADERS = 2000  # largest number of image headers to read; larger splits are sampled evenly
THREADS = 16  # number of threads that read headers; a network disk answers parallel requests much faster


def check_split(
    root: str, split: str, key: str, with_masks: bool, open_dataset: Callable[[], COCODataset]
) -> Sequence[str]:
    """Return all faults of a split that can be found without decoding images; log a warning for each possible fault.

    Args:
        root: the data set's folder.
        split: name of the split.
        key: configuration key of the split. This function requires annotations for ``data.val_split``;
            ``open_dataset`` requires them for ``data.train_split``.
        with_masks: whether objects need masks.
        open_dataset: function that opens the split. If ``open_dataset`` raises InputError, the problems in this error
            are returned, too.

    Returns:
        One message per kind of problem; an empty list if the split can be used.
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
    # If no object can be trained on because the file's boxes are wrong, both ``open_dataset`` and ``split_findings``
    # return a message about these boxes. Report only the first of the two messages.
    return problems + [new for new in found if not any(new.partition(": ")[2] in problem for problem in problems)]


def split_findings(
    index: COCOIndex, image_folder: Path, places: NDArray[np.int64], with_masks: bool
) -> tuple[list[str], list[str]]:
    """Check a split: files and masks of the images that are used, boxes and areas of all objects.

    Args:
        index: the split's annotations.
        image_folder: folder of the split's image files.
        places: int64, positions in ``index`` of the images that are used.
        with_masks: whether objects need masks.

    Returns:
        ``(problems, remarks)``: two lists of messages. All cases of the same fault share one message. A problem makes
        the split unusable. A remark reports valid data that look like a mistake.
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
    more = f"; other annotations without a usable segmentation ({len(others)}): {listed(others)}" if others else ""
    return [f"{index.annotation_file}: {index.mask_fault(int(faulty[0]))}; {MASKS_NEEDED}{more}"]


def _missing_files(index: COCOIndex, image_folder: Path, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions in ``index`` of all images without an image file. Each folder is listed only once."""
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
    # Some annotation tools write the image's path on their own computer into 'file_name'.
    without = sum((image_folder / PureWindowsPath(name).name).is_file() for name in names[:MOST])
    advice = (
        "files with these names lie directly in the image folder: remove all folders from 'file_name'"
        if without
        else f"copy the images into this folder, or remove them from {index.annotation_file.name}"
    )
    return [f"{image_folder}: {len(missing)} of {len(index)} images are missing: {listed(shown)}; {advice}"]


def _headers(index: COCOIndex, image_folder: Path, places: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Read the headers of image files. Return ``(problems, remarks)``: messages about errors, and warnings."""
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
        f"{image_folder}: {turned} of the {len(places)} checked images have an EXIF orientation tag. The tag is "
        "ignored, because COCO's boxes refer to the stored pixels. If your boxes refer to the images as a viewer "
        "shows them (turned by the tag), store the pixels in this orientation and remove the tag"
    ]
    return _by_cause(problems), remarks if turned else []


def _by_cause(problems: list[tuple[str, str]]) -> list[str]:
    """Merge (image, problem) pairs with the same cause into one message.

    The message has the problem of the first image and the names of the other images.
    """
    causes: dict[str, list[tuple[str, str]]] = {}
    for name, problem in problems:
        cause = re.sub(r"\d+", "", problem.rpartition(f"{name}: ")[2])
        causes.setdefault(cause, []).append((name, problem))
    messages = []
    for (_, problem), *others in causes.values():
        names = listed([name for name, _ in others])
        messages.append(f"{problem}; other images with the same fault ({len(others)}): {names}" if others else problem)
    return messages

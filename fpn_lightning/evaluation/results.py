"""Reading COCO result files and proposal stores: the predictions of one image at a time, as arrays."""

from __future__ import annotations

import json
import reprlib
from array import array
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.coco.labels import PLURAL
from fpn_lightning.data.coco.segmentations import COMPRESSED_COUNTS, compressed_rle, covered_pixels, segmentation_fault
from fpn_lightning.data.proposals.store import ProposalStore
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.structures import RLE

Entry = dict[str, Any]
LARGEST = 1e15  # px; with larger numbers an IoU would overflow
TAKEN = object()  # takes the place of a result that was moved into arrays; None could be the file's own null


class StoredResults:
    """The proposals of a store, read image by image, so that the store may be larger than the memory.

    Args:
        folder: ``<run>/proposals/<split>``.
        fingerprint: sha256 of the annotation file.

    Raises:
        InputError: the store is not complete, or was made from another annotation file.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.store = ProposalStore(folder)
        self.store.check_fingerprint(fingerprint)

    def of(self, image_id: int) -> FileResults:
        """The proposals of one image."""
        stored = self.store.read(image_id)
        top_left, bottom_right = np.split(stored.boxes_orig.astype(np.float64), 2, axis=1)
        return FileResults(np.hstack((top_left, bottom_right - top_left)), stored.objectness.astype(np.float64))


@dataclass(frozen=True)
class ResultTable:
    """All results of a file, image by image.

    Attributes:
        results: of all images. Within an image rows are in the order of the category ids and then of the file, which
            is COCO's order among equal scores.
        rows: which rows belong to an image, by image id.
    """

    results: FileResults
    rows: dict[int, slice]

    def of(self, image_id: int) -> FileResults:
        """The results of one image; empty arrays for an image without results."""
        rows, table = self.rows.get(image_id, slice(0, 0)), self.results
        return FileResults(table.boxes_xywh[rows], table.scores[rows], table.labels[rows], table.masks[rows])


def read_results(path: Path, index: COCOIndex, with_masks: bool = False, with_classes: bool = False) -> ResultTable:
    """Read a COCO result list into arrays: 56 bytes a box, whatever the file's size.

    Args:
        path: the list; may be empty. Each entry has ``image_id``, ``score`` and ``bbox`` (xywh) or ``segmentation``.
        index: the annotation file that the results are for.
        with_masks: read ``segmentation`` (RLE or polygons) and leave boxes out; otherwise read ``bbox``.
        with_classes: every entry needs a ``category_id`` of the annotation file. Otherwise the ids, if there are any,
            only order equal scores.

    Raises:
        InputError: naming file, entry and image, for a value that is missing, unknown, not finite or of a wrong size.
    """
    sizes = dict(zip(index.image_ids.tolist(), index.sizes.tolist(), strict=True))
    known = set(index.categories.ids)
    ids, categories, scores, boxes = array("q"), array("q"), array("d"), array("d")
    masks: list[RLE] = []

    def take(entry: Entry) -> object:
        """Move a result into the arrays as soon as the parser has read it."""
        if "image_id" not in entry:
            return entry  # the mask of a result, or an entry that is rejected below
        name = _name(path, len(ids), entry["image_id"])
        _check(name, entry, sizes)
        category_id = entry.get("category_id")
        if with_classes and not (_is_id(category_id) and category_id in known):
            raise InputError(
                f"{name}: category_id is {_shown(category_id)}, which is not one of the annotation file's "
                f"{PLURAL[index.labels]}; give --labels category or supercategory as in training, write the file's own "
                "category ids, or score with --class-agnostic"
            )
        if with_masks:
            masks.append(_mask(name, entry.get("segmentation"), sizes[entry["image_id"]]))
        elif _is_box(entry.get("bbox")):
            boxes.extend(entry["bbox"])
        else:
            given = _shown(entry.get("bbox"))
            raise InputError(f"{name}: bbox is {given}; give four finite numbers x, y, width, height below 1e15")
        ids.append(entry["image_id"])
        categories.append(category_id if _is_id(category_id) else 0)
        scores.append(entry["score"])
        return TAKEN

    _read_list(path, take, ids)
    _check_covered(path, ids, masks)

    order = np.lexsort((categories, ids))
    sorted_ids, labels = np.asarray(ids)[order], np.asarray(categories)[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[:1] - 1))
    ends = np.append(starts[1:], len(sorted_ids)).tolist()
    table = FileResults(
        np.zeros((len(ids), 4)) if with_masks else np.asarray(boxes).reshape(-1, 4)[order],
        np.asarray(scores)[order],
        index.categories.to_labels(labels) if with_classes else labels,
        [masks[i] for i in order] if with_masks else [],
    )
    rows = {int(sorted_ids[start]): slice(start, end) for start, end in zip(starts.tolist(), ends, strict=False)}
    return ResultTable(table, rows)


def _read_list(path: Path, take: Callable[[Entry], object], taken: array[int]) -> None:
    """Parse the file with ``take`` called on each JSON object, and check that all entries of the list were taken."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=take)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a JSON file") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a complete JSON file ({error}); write it again") from error
    if not isinstance(content, list):
        raise InputError(f"{path}: holds no JSON list; give a COCO result file (the annotation file comes first)")
    for row, entry in enumerate(content):
        if entry is not TAKEN:
            raise InputError(f"{path}: entry {row} has no image_id; give a list of COCO results")
    if len(content) != len(taken):
        raise InputError(f"{path}: results stand inside other results; give a flat list of COCO results")


def _name(path: Path, row: int, image_id: object) -> str:
    return f"{path}: entry {row} (image {_shown(image_id)})"


def _is_id(value: object) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 2**63


def _is_number(value: object, largest: float) -> bool:
    # False for NaN and Infinity, which JSON as Python reads it may hold.
    return type(value) in (int, float) and -largest < value < largest  # type: ignore[operator]


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_number(x, LARGEST) for x in value)


def _shown(value: object) -> str:
    text = reprlib.repr(value)  # cuts what is nested deeply, on which repr would fail
    return text if len(text) <= 80 else text[:77] + "..."


def _check(name: str, entry: Entry, image_ids: Container[int]) -> None:
    if not _is_id(entry["image_id"]) or entry["image_id"] not in image_ids:
        raise InputError(f"{name}: the annotation file lists no such image; score the split the results are for")
    if not _is_number(entry.get("score"), 1e300):
        raise InputError(f"{name}: score is {_shown(entry.get('score'))}; give a finite number")


def _mask(name: str, segmentation: Any, size: list[int]) -> RLE:
    """The mask of a result as compressed RLE; whether it covers the image is checked later, for many at once."""
    is_compressed = (
        isinstance(segmentation, dict)
        and segmentation.get("size") == size
        and isinstance(segmentation.get("counts"), str)
        and COMPRESSED_COUNTS.fullmatch(segmentation["counts"])
    )
    if not is_compressed and (fault := segmentation_fault(segmentation, *size)):
        raise InputError(
            f"{name}: segmentation is not a mask of the image: {fault}; "
            "give {'size': [height, width], 'counts': ...} of the image file"
        )
    return compressed_rle(segmentation, *size)


def _check_covered(path: Path, ids: array[int], masks: list[RLE]) -> None:
    """Reject masks whose counts do not cover their image exactly: COCO's mask API may hang on them."""
    # A hundred masks at once take a fifth of the time of a hundred alone.
    for first in range(0, len(masks), 100):
        some = masks[first : first + 100]
        covered: NDArray[np.int64] = covered_pixels([mask["counts"] for mask in some])
        wrong = np.flatnonzero(covered != [mask["size"][0] * mask["size"][1] for mask in some])
        if wrong.size:
            row = first + int(wrong[0])
            name = _name(path, row, ids[row])
            raise InputError(f"{name}: the mask's counts do not add up to height x width; write the mask again")

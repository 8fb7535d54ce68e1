"""Reads COCO result files and the proposals that ``predict`` stored, and returns arrays for each image."""

from __future__ import annotations

import json
import reprlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.data.coco.boxes import boxes_fault
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.coco.labels import PLURAL
from fpn_lightning.data.coco.segmentations import COMPRESSED_COUNTS, compressed_rle, covered_pixels, segmentation_fault
from fpn_lightning.data.proposals.store import ProposalStore
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.evaluation.file_names import FileNames
from fpn_lightning.evaluation.plain_boxes import LARGEST, LARGEST_SCORE, LEAST_SIDE, read_plain_boxes
from fpn_lightning.ground_truth import RLE

Entry = dict[str, Any]
# Stands for a result that was moved into arrays. None cannot be used, because the JSON parser returns it for ``null``.
TAKEN = object()


class StoredResults:
    """Reads a proposal store image by image, because a store may be larger than the memory.

    Args:
        folder: ``<run>/proposals/<split>``.
        fingerprint: sha256 of the annotation file.

    Raises:
        InputError: if the store is incomplete, or was made from another annotation file.
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
    """All results of a file, sorted by image.

    Attributes:
        results: the results of all images. The results of an image are sorted by category id, then by position in the
            file. COCO's evaluator keeps this order among results with equal scores.
        rows: for each image id, the slice of its results in ``results``.
    """

    results: FileResults
    rows: dict[int, slice]

    def of(self, image_id: int) -> FileResults:
        """The results of one image; empty arrays for an image without results."""
        rows, table = self.rows.get(image_id, slice(0, 0)), self.results
        return FileResults(
            table.boxes_xywh[rows], table.scores[rows], table.labels[rows], table.masks[rows], table.areas[rows]
        )


def read_results(path: Path, index: COCOIndex, with_masks: bool = False, with_classes: bool = False) -> ResultTable:
    """Read a COCO result list into arrays, which take 56 bytes per box.

    Args:
        path: JSON file with a list of results, which may be empty. Each result has ``image_id``, ``score`` and
            ``bbox`` (xywh) or ``segmentation``.
        index: the annotation file that the results are for.
        with_masks: read ``segmentation`` (RLE or polygons) instead of boxes. If false, read ``bbox``; for an entry
            without ``bbox``, use the box around ``segmentation``.
        with_classes: require a ``category_id`` of the annotation file in every entry. If false, category ids are
            optional and only determine the order of equal scores.

    Raises:
        InputError: if a value is missing or invalid, or if the results cannot belong to the images of ``index``.
            The message names the file and, for an invalid value, the entry and the image.
    """
    columns = _Columns(path, index, with_masks, with_classes)
    if not with_masks and (plain := read_plain_boxes(path, index, with_classes)) is not None:
        ids, categories, scores, boxes = (column.tobytes() for column in plain)
        columns.ids, columns.categories = array("q", ids), array("q", categories)
        columns.scores, columns.boxes = array("d", scores), array("d", boxes)
    else:
        _read_list(path, columns.take, columns.ids)
    return columns.table()


class _Columns:
    """The results of a file. The JSON parser calls :meth:`take` for each result to move the result into arrays."""

    def __init__(self, path: Path, index: COCOIndex, with_masks: bool, with_classes: bool) -> None:
        self.path, self.index = path, index
        self.with_masks, self.with_classes = with_masks, with_classes
        self.sizes = dict(zip(index.image_ids.tolist(), index.sizes.tolist(), strict=True))
        self.known = set(index.categories.ids)
        self.files = FileNames(index)
        self.ids, self.categories, self.scores, self.boxes = array("q"), array("q"), array("d"), array("d")
        self.masks: list[RLE] = []
        self.mask_rows = array("q")

    def take(self, entry: Entry) -> object:
        """Check a result and move it into the arrays."""
        if "image_id" not in entry:
            # This JSON object is the RLE inside a result, or an invalid entry. _read_list rejects invalid entries.
            return entry
        name = _name(self.path, len(self.ids), entry["image_id"])
        image_id = _integer(name, "image_id", entry["image_id"])
        if image_id not in self.sizes:
            raise InputError(
                f"{name}: the annotation file lists no such image; give the annotation file of the predicted split. "
                "(`predict` numbers the images of a folder from 1. To get the image ids of the annotation "
                "file, predict with --data.predict_split)"
            )
        self.files.check(name, image_id, entry.get("file_name"))
        if not _is_number(entry.get("score"), LARGEST_SCORE):
            raise InputError(f"{name}: score is {_shown(entry.get('score'))}; give a finite number")
        self.categories.append(self._category(name, entry.get("category_id")))
        self._take_shape(name, entry, self.sizes[image_id])
        self.ids.append(image_id)
        self.scores.append(entry["score"])
        return TAKEN

    def _category(self, name: str, given: object) -> int:
        if self.with_classes and given is not None:
            given = _integer(name, "category_id", given)
        if self.with_classes and given not in self.known:
            raise InputError(
                f"{name}: category_id is {_shown(given)}, which is not one of the annotation file's "
                f"{PLURAL[self.index.labels]}; give --labels category or supercategory as in training, use the "
                "category ids of the annotation file, or score with --class-agnostic"
            )
        return given if _is_id(given) else 0

    def _take_shape(self, name: str, entry: Entry, size: list[int]) -> None:
        box: Any = entry.get("bbox")
        segmentation = entry.get("segmentation")
        if self.with_masks or (segmentation and not box):
            self.mask_rows.append(len(self.ids))
            self.masks.append(_mask(name, segmentation, size))
            box = [0, 0, 0, 0]  # placeholder; _boxes() inserts the box around the mask
        elif not _is_box(box):
            raise InputError(f"{name}: bbox is {_shown(box)}; give four finite numbers x, y, width, height below 1e15")
        elif min(box[2:]) < LEAST_SIDE:
            raise InputError(
                f"{name}: bbox is {_shown(box)}, with a negative width or height; give x, y, width, height instead of "
                "two corners"
            )
        if not self.with_masks:
            self.boxes.extend(box)

    def table(self) -> ResultTable:
        """Return the results, sorted by image."""
        _check_covered(self.path, self.ids, self.masks, self.mask_rows)
        order = np.lexsort((self.categories, self.ids))
        ids, labels = np.asarray(self.ids)[order], np.asarray(self.categories)[order]
        boxes, areas = self._boxes()
        table = FileResults(
            boxes[order],
            np.asarray(self.scores)[order],
            self.index.categories.to_labels(labels) if self.with_classes else labels,
            [self.masks[i] for i in order] if self.with_masks else [],
            areas[order] if len(areas) else areas,
        )
        found = np.unique(ids, return_index=True, return_counts=True)
        rows = {i: slice(start, start + n) for i, start, n in zip(*(x.tolist() for x in found), strict=True)}
        return ResultTable(table, rows)

    def _boxes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return boxes, float64 ``(D, 4)`` xywh, and areas, float64 ``(D,)`` px² or empty if masks are scored."""
        if self.with_masks:
            return np.zeros((len(self.ids), 4)), np.zeros(0)
        boxes = np.asarray(self.boxes).reshape(-1, 4)
        areas = boxes[:, 2] * boxes[:, 3]
        if self.masks:  # As in pycocotools, a result without bbox has the area of its mask
            boxes[self.mask_rows] = mask_api.toBbox(self.masks)
            areas[self.mask_rows] = [
                mask_api.area(mask) for mask in self.masks
            ]  # one call per mask: area() accepts at most 255 masks at once
        if fault := boxes_fault(boxes, self.index.sizes[np.searchsorted(self.index.image_ids, self.ids)]):
            raise InputError(f"{self.path}: {fault}")
        return boxes, areas


def _read_list(path: Path, take: Callable[[Entry], object], taken: array[int]) -> None:
    """Parse the file, call ``take`` on each JSON object, and check that every entry of the list was taken."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=take)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a JSON file") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a complete JSON file ({error}); write the file again") from error
    if not isinstance(content, list):
        raise InputError(f"{path}: is not a JSON list; give first the annotation file, then a COCO result file")
    for row, entry in enumerate(content):
        if entry is not TAKEN:
            raise InputError(f"{path}: entry {row} has no image_id; give a list of COCO results")
    if len(content) != len(taken):
        raise InputError(f"{path}: results are nested inside other results; give a flat list of COCO results")


def _name(path: Path, row: int, image_id: object) -> str:
    return f"{path}: entry {row} (image {_shown(image_id)})"


def _is_id(value: object) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 2**63


def _is_number(value: object, largest: float) -> bool:
    # NaN and Infinity, which Python's JSON parser accepts, are not numbers here.
    return type(value) in (int, float) and -largest < value < largest  # type: ignore[operator]


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_number(x, LARGEST) for x in value)


def _shown(value: object) -> str:
    text = reprlib.repr(value)  # not repr, which fails on deeply nested values
    return text if len(text) <= 80 else text[:77] + "..."


def _integer(name: str, key: str, value: object) -> int:
    """Return an id as an integer. A float such as 101.0 is accepted, because some programs store ids as floats."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if not _is_id(value):
        raise InputError(f"{name}: {key} is {_shown(value)}; write it as an integer, without quotes")
    return value


def _mask(name: str, segmentation: Any, size: list[int]) -> RLE:
    """Convert a segmentation to compressed RLE. Its run lengths (``counts``) are checked in :func:`_check_covered`."""
    is_compressed = (
        isinstance(segmentation, dict)
        and segmentation.get("size") == size
        and isinstance(segmentation.get("counts"), str)
        and COMPRESSED_COUNTS.fullmatch(segmentation["counts"])
    )
    if not is_compressed and (fault := segmentation_fault(segmentation, *size)):
        raise InputError(
            f"{name}: segmentation is not a mask of the image: {fault}; "
            "give {'size': [height, width], 'counts': ...} with height and width of the image file"
        )
    return compressed_rle(segmentation, *size)


def _check_covered(path: Path, ids: array[int], masks: list[RLE], rows: array[int]) -> None:
    """Raise InputError if a mask's run lengths do not sum to height x width: COCO's mask API may hang on such masks."""
    # One call for a hundred masks is five times as fast as a hundred calls.
    for first in range(0, len(masks), 100):
        some = masks[first : first + 100]
        covered: NDArray[np.int64] = covered_pixels([mask["counts"] for mask in some])
        wrong = np.flatnonzero(covered != [mask["size"][0] * mask["size"][1] for mask in some])
        if wrong.size:
            row = rows[first + int(wrong[0])]
            name = _name(path, row, ids[row])
            raise InputError(f"{name}: the mask's counts do not add up to height x width; write the mask again")

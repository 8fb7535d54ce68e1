"""Reading COCO result files: detections as records for AP, proposals as arrays for recall."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from fpn_lightning.data.coco.segmentations import COMPRESSED_COUNTS, counts_fault, covered_pixels
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.annotations import Record, is_box, is_id, is_number, read_json, shown
from fpn_lightning.evaluation.arrays import FileProposals

TAKEN = object()  # stands where a proposal was in the file; None could be the file's own null


@dataclass(frozen=True)
class ProposalTable:
    """All proposals of a result file as arrays, image by image.

    Attributes:
        boxes_xywh: float64 ``(N, 4)`` pixels of the image file.
        scores: float64 ``(N,)``.
        rows: image id to its slice of rows. Within an image rows keep the order of the file, category by category:
            COCO's order among equal scores.
    """

    boxes_xywh: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: dict[int, slice]

    def of(self, image_id: int) -> FileProposals:
        """The proposals of one image; none for an image without proposals."""
        rows = self.rows.get(image_id, slice(0, 0))
        return FileProposals(self.boxes_xywh[rows], self.scores[rows])


def read_proposals(path: Path, image_ids: set[int]) -> ProposalTable:
    """Read proposals (``image_id``, ``bbox`` xywh, ``score``) without keeping an object per box.

    Each entry is moved into arrays (56 bytes a proposal) as soon as the parser has read it.

    Args:
        path: a COCO result list. ``category_id`` may be absent; it only orders equal scores.
        image_ids: the images of the annotation file.

    Raises:
        InputError: naming file, entry and image, for a key that is missing, a box or a score that is not finite, or
            an image that the annotation file does not list.
    """
    ids, categories, boxes, scores = array("q"), array("q"), array("d"), array("d")

    def take(entry: Record) -> object:
        if "image_id" not in entry:
            return entry  # a mask inside a result, or no result at all: told apart below
        name = _name(path, len(ids), entry)
        _check_result(name, entry, image_ids)
        if not is_box(entry.get("bbox")):
            raise _no_box(name, entry)
        category = entry.get("category_id", 0)
        ids.append(entry["image_id"])
        categories.append(category if is_id(category) else 0)
        boxes.extend(entry["bbox"])
        scores.append(entry["score"])
        return TAKEN

    content = read_json(path, take)
    _check_list(path, content)
    for row, entry in enumerate(content):
        if entry is not TAKEN:
            raise InputError(f"{path}: entry {row} has no image_id; give a list of COCO results")
    if len(content) != len(ids):
        raise InputError(f"{path}: results stand inside other results; give a flat list of COCO results")

    order = np.lexsort((categories, ids))
    sorted_ids = np.asarray(ids)[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[:1] - 1))
    ends = np.append(starts[1:], len(sorted_ids))
    rows = {int(sorted_ids[start]): slice(int(start), int(end)) for start, end in zip(starts, ends, strict=False)}
    return ProposalTable(np.asarray(boxes).reshape(-1, 4)[order], np.asarray(scores)[order], rows)


def read_results(
    path: Path, annotations: dict[str, list[Record]], iou_type: str, class_agnostic: bool = False
) -> list[Record]:
    """Read detections for AP.

    Args:
        path: a COCO result list; may be empty.
        annotations: what ``read_annotations`` returned.
        iou_type: ``bbox`` or ``segm``.
        class_agnostic: do without ``category_id``: a category missing or unknown is taken for the first one.

    Returns:
        Records with ``image_id``, ``category_id``, ``score``, and ``bbox`` or ``segmentation`` (compressed RLE).
        For ``segm`` a box in the file is left out: COCO's evaluator would take its area for the mask's.

    Raises:
        InputError: naming file, entry and image, for whatever is missing, unknown, not finite or of a wrong size.
    """
    content = read_json(path)
    _check_list(path, content)
    sizes = {image["id"]: [image.get("height"), image.get("width")] for image in annotations["images"]}
    category_ids = {category["id"] for category in annotations["categories"]}
    results = []
    for row, entry in enumerate(content):
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise InputError(f"{path}: entry {row} has no image_id; give a list of COCO results")
        name = _name(path, row, entry)
        _check_result(name, entry, sizes.keys())
        category = entry.get("category_id")
        if not is_id(category) or category not in category_ids:
            if not class_agnostic:
                raise InputError(
                    f"{name}: category_id is {shown(category)}, which the annotation file's `categories` does not list;"
                    " write the file's own category ids, or score with --class-agnostic"
                )
            category = min(category_ids)
        record = {"image_id": entry["image_id"], "category_id": category, "score": entry["score"]}
        if iou_type == "bbox":
            if not is_box(entry.get("bbox")):
                raise _no_box(name, entry)
            record["bbox"] = entry["bbox"]
        else:
            record["segmentation"] = _compressed_rle(name, entry.get("segmentation"), sizes[entry["image_id"]])
        results.append(record)
    if iou_type == "segm":
        _check_covered(path, results)
    return results


def _name(path: Path, row: int, entry: Record) -> str:
    return f"{path}: entry {row} (image {shown(entry['image_id'])})"


def _no_box(name: str, entry: Record) -> InputError:
    return InputError(
        f"{name}: bbox is {shown(entry.get('bbox'))}; give four finite numbers x, y, width, height below 1e15"
    )


def _check_list(path: Path, content: object) -> None:
    if not isinstance(content, list):
        raise InputError(f"{path}: holds no JSON list; give a COCO result file (the annotation file comes first)")


def _check_result(name: str, entry: Record, image_ids: Any) -> None:
    if not is_id(entry["image_id"]) or entry["image_id"] not in image_ids:
        raise InputError(f"{name}: the annotation file lists no such image; score the split the results are for")
    if not is_number(entry.get("score")):
        raise InputError(f"{name}: score is {shown(entry.get('score'))}; give a finite number")


def _compressed_rle(name: str, segmentation: object, size: list[Any]) -> Record:
    """Check a mask of a result and bring it to COCO's compressed form."""
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise InputError(f"{name}: segmentation is no RLE; give {{'size': [height, width], 'counts': ...}}")
    if segmentation["size"] != size:
        raise InputError(
            f"{name}: the mask's size is {shown(segmentation['size'])}, the image's {size}; give masks of the file"
        )
    counts = segmentation["counts"]
    if isinstance(counts, str) and COMPRESSED_COUNTS.fullmatch(counts):
        return {"size": size, "counts": counts}
    if fault := counts_fault(counts, size[0] * size[1]):
        raise InputError(f"{name}: the mask's counts are wrong: {fault}; write the mask again")
    return {"size": size, "counts": mask_api.frPyObjects(segmentation, *size)["counts"].decode()}


def _check_covered(path: Path, results: list[Record]) -> None:
    """Refuse masks that do not cover their image exactly: the evaluators may never return from comparing them."""
    # A hundred at once take a fifth of the time of a hundred alone.
    for first in range(0, len(results), 100):
        rles = [result["segmentation"] for result in results[first : first + 100]]
        covered = covered_pixels([rle["counts"] for rle in rles]).tolist()
        for row, (rle, found) in enumerate(zip(rles, covered, strict=True), start=first):
            if found != rle["size"][0] * rle["size"][1]:
                name = _name(path, row, results[row])
                raise InputError(f"{name}: the mask's counts do not add up to height x width; write the mask again")

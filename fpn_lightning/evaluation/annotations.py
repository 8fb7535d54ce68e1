"""Reading COCO annotation files for scoring: every flaw that would silently change a number is refused by name."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from fpn_lightning.data.coco.segmentations import segmentation_fault
from fpn_lightning.errors import InputError

Record = dict[str, Any]
LARGEST = 1e15  # px and px²; with larger ones an IoU would overflow


def read_json(path: Path, object_hook: Callable[[Record], Any] | None = None) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        object_hook: called with each object as it is parsed; what it returns takes the object's place.

    Raises:
        InputError: the file cannot be read or is not JSON.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, object_hook=object_hook)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a JSON file") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a complete JSON file ({error}); write it again") from error


def is_id(value: object) -> TypeGuard[int]:
    """Whether a value is an integer that NumPy's int64 holds."""
    return type(value) is int and abs(value) < 2**63


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite int or float (JSON as Python reads it may hold NaN and Infinity)."""
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]


def is_box(value: object) -> TypeGuard[list[float]]:
    """Whether a value is a list of four finite numbers that can be pixels."""
    return isinstance(value, list) and len(value) == 4 and all(is_number(x) and abs(x) < LARGEST for x in value)


def shown(value: object) -> str:
    """A value for a message, in at most 80 characters."""
    text = reprlib.repr(value)  # cuts what is nested deeply, on which repr would fail
    return text if len(text) <= 80 else text[:77] + "..."


def read_annotations(path: Path, with_masks: bool = False) -> dict[str, list[Record]]:
    """Read what scoring needs of a COCO annotation file.

    Args:
        path: file with ``images``, ``annotations`` and ``categories``.
        with_masks: also ask for ``segmentation`` and the images' ``height`` and ``width``.

    Returns:
        The same three lists, each record reduced to the keys that scoring reads; ``iscrowd`` is filled in.

    Raises:
        InputError: naming the file and the image or annotation id, for whatever is missing, of a wrong type, not
            finite, defined twice, or refers to an unknown image or category; and for annotation ids below 1, since
            both COCO evaluators read id 0 as "unmatched".
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object; give a COCO annotation file (a result file comes second)")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path}: has no list `{key}`; give a COCO instances file")
    images = [_image(path, row, image, with_masks) for row, image in enumerate(content["images"])]
    categories = [_category(path, row, category) for row, category in enumerate(content["categories"])]
    if not images or not categories:
        raise InputError(f"{path}: lists no {'images' if not images else 'categories'}; give a COCO instances file")
    _unique(path, "image", images)
    images_by_id = {image["id"]: image for image in images}
    category_ids = _unique(path, "category", categories)
    annotations = [_annotation(path, row, item) for row, item in enumerate(content["annotations"])]
    _unique(path, "annotation", annotations)
    for item in annotations:
        if item["image_id"] not in images_by_id:
            raise InputError(
                f"{path}: annotation {item['id']} belongs to image {item['image_id']}, which `images` does not list; "
                "add the image or drop the annotation"
            )
        if item["category_id"] not in category_ids:
            raise InputError(
                f"{path}: annotation {item['id']} has category_id {item['category_id']}, which `categories` does not "
                "list; COCO's evaluator would pass over it without a word, so add the category or drop the annotation"
            )
    if with_masks:
        for item, record in zip(content["annotations"], annotations, strict=True):
            record["segmentation"] = _segmentation(path, item, images_by_id[item["image_id"]])
    return {"images": images, "annotations": annotations, "categories": categories}


def _image(path: Path, row: int, image: object, with_size: bool) -> Record:
    if not isinstance(image, dict) or not is_id(image.get("id")):
        raise InputError(f"{path}: entry {row} of `images` has no integer `id`; number the images")
    if not with_size:
        return {"id": image["id"]}
    for key in ("height", "width"):
        if not is_id(image.get(key)) or image[key] < 1:
            raise InputError(f"{path}: image {image['id']} has no positive integer `{key}`, which masks need; add it")
    return {"id": image["id"], "height": image["height"], "width": image["width"]}


def _category(path: Path, row: int, category: object) -> Record:
    if not isinstance(category, dict) or not is_id(category.get("id")):
        raise InputError(f"{path}: entry {row} of `categories` has no integer `id`; number the categories")
    name = category.get("name")
    return {"id": category["id"], "name": name if isinstance(name, str) else str(category["id"])}


def _annotation(path: Path, row: int, item: object) -> Record:
    if not isinstance(item, dict) or not is_id(item.get("id")):
        raise InputError(f"{path}: entry {row} of `annotations` has no integer `id`; number the annotations from 1")
    name = f"{path}: annotation {item['id']}"
    if item["id"] < 1:
        raise InputError(
            f"{name}: COCO's evaluators read id 0 as 'unmatched' and would lose this object; number annotations from 1"
        )
    for key in ("image_id", "category_id"):
        if not is_id(item.get(key)):
            raise InputError(f"{name} has {key} {shown(item.get(key))}; give an integer")
    if not is_box(item.get("bbox")):
        raise InputError(
            f"{name} has bbox {shown(item.get('bbox'))}; give four finite numbers x, y, width, height below 1e15"
        )
    if not is_number(item.get("area")) or not 0 <= item["area"] < LARGEST:
        raise InputError(f"{name} has area {shown(item.get('area'))}; give the object's area in px²")
    if item.get("iscrowd", 0) not in (0, 1):
        raise InputError(f"{name} has iscrowd {shown(item['iscrowd'])}; give 0 or 1")
    record = {key: item[key] for key in ("id", "image_id", "category_id", "bbox", "area")}
    record["iscrowd"] = int(item.get("iscrowd", 0))
    return record


def _segmentation(path: Path, item: Record, image: Record) -> Any:
    segmentation = item.get("segmentation")
    if fault := segmentation_fault(segmentation, image["height"], image["width"]):
        raise InputError(
            f"{path}: annotation {item['id']} has no usable segmentation: {fault}; give polygons of at least 3 points, "
            "or an RLE"
        )
    return segmentation


def _unique(path: Path, kind: str, records: list[Record]) -> set[int]:
    ids: set[int] = set()
    for record in records:
        if record["id"] in ids:
            raise InputError(f"{path}: {kind} id {record['id']} stands twice; give every {kind} its own id")
        ids.add(record["id"])
    return ids

"""Small data sets in COCO's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fpn_lightning.data.datamodule import COCODataModule

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]


def document(**changes: Any) -> dict[str, Any]:
    """Two images; three objects of image 7, the last a crowd region."""
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    rle = {"counts": [0, 100, 4700], "size": [60, 80]}
    base = {
        "info": {"description": "two images"},
        "images": [
            {"id": 9, "file_name": "b.png", "height": 80, "width": 60},
            {"id": 7, "file_name": "a.png", "height": 60, "width": 80},
        ],
        "categories": CATEGORIES,
        "annotations": [
            annotation(12, 7, 3, [10.1, 10.2, 10.5, 10.25], segmentation=square),
            annotation(11, 7, 1, [0, 0, 30, 30], segmentation=square),
            annotation(13, 7, 1, [0, 0, 80, 60], iscrowd=1, segmentation=rle),
        ],
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def annotation(annotation_id: int, image_id: int, category_id: int, box: list[float], **more: Any) -> dict[str, Any]:
    known = {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": box}
    return known | {"area": 50.5, "iscrowd": 0} | more


def one_object(**changes: Any) -> dict[str, Any]:
    """Both images, and one object of image 7."""
    return document(annotations=[annotation(5, 7, 1, [0, 0, 5, 5]) | changes])


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_split(root: Path, split: str, content: dict[str, Any]) -> Path:
    """The annotation file and random images of the sizes it states."""
    random = np.random.default_rng(0)
    for image in content["images"]:
        pixels = random.integers(0, 255, (image["height"], image["width"], 3), dtype=np.uint8)
        path = root / split / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return write_json(root / "annotations" / f"instances_{split}.json", content)


def many_images(count: int) -> dict[str, Any]:
    """Images 1..count of about 24×32 pixels, every third one portrait, one object each."""
    images, annotations = [], []
    for i in range(1, count + 1):
        height, width = (32, 24) if i % 3 == 0 else (24, 32)
        images.append({"id": i, "file_name": f"{i:04}.png", "height": height, "width": width})
        annotations.append(annotation(i, i, 1 + 2 * (i % 2), [2, 3, 10 + i % 7, 8]))
    return document(images=images, annotations=annotations)


def small_module(root: Path, **options: Any) -> COCODataModule:
    """A data module for the folders made here, without workers."""
    small: dict[str, Any] = {"num_classes": 2, "short_side": 30, "max_side": 50, "num_workers": 0}
    return COCODataModule(str(root), **(small | {"total_batch_size": 4} | options))

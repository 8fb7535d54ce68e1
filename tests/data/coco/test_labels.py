"""Labels by supercategory."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpn_lightning.data.coco import index_file
from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError
from tests.data.builders import annotation, document, small_module, write_json, write_split

CATEGORIES: list[dict[str, Any]] = [
    {"id": 8, "name": "truck", "supercategory": "vehicle"},
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
    {"id": 5, "name": "cat", "supercategory": "animal"},
]


def grouped(**changes: Any) -> dict[str, Any]:
    """Objects of the categories 8, 1, 5 and 3 in image 7."""
    objects = [annotation(i, 7, category, [0, 0, 9, 9]) for i, category in enumerate((8, 1, 5, 3), start=1)]
    return document(categories=CATEGORIES, annotations=objects) | changes


def test_both_kinds_of_labels_from_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "a.json", grouped())
    os.utime(path, ns=(10**18, 10**18))  # as if written long ago, so that its index is trusted
    merged = COCOIndex.open(path, "supercategory")
    monkeypatch.setattr(index_file, "read_annotations", None)  # from here on the index is only mapped
    plain = COCOIndex.open(path)
    # In the order of each supercategory's first category; no id is that of a category.
    assert (merged.categories.ids, merged.categories.names) == ((9, 10, 11), ("person", "vehicle", "animal"))
    assert merged.objects_of(0).labels.tolist() == [1, 0, 2, 1]
    assert (plain.categories.ids, plain.objects_of(0).labels.tolist()) == ((1, 3, 5, 8), [3, 0, 2, 1])
    assert COCOIndex.open(path, "supercategory").objects_of(0).labels.tolist() == [1, 0, 2, 1]
    assert merged.fingerprint == plain.fingerprint


def test_a_copy_in_another_process_has_the_same_labels(tmp_path: Path) -> None:
    index = COCOIndex.open(write_json(tmp_path / "a.json", grouped()), "supercategory")
    copy = pickle.loads(pickle.dumps(index))
    assert (copy.categories, copy.objects_of(0).labels.tolist()) == (index.categories, [1, 0, 2, 1])


@pytest.mark.parametrize("value", [None, "", 3, ["animal"], "\ud800"])
def test_a_category_without_a_supercategory(tmp_path: Path, value: Any) -> None:
    wrong = [*CATEGORIES[:3], {"id": 5, "name": "cat", "supercategory": value}, {"id": 6, "name": "dog"}]
    path = write_json(tmp_path / "a.json", grouped(categories=wrong))
    assert len(COCOIndex.open(path).categories) == 5  # only labels by supercategory need it
    with pytest.raises(InputError, match=r"a\.json: category 5, 6 has no 'supercategory'.*set labels to 'category'"):
        COCOIndex.open(path, "supercategory")


def test_a_file_without_categories(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", document(annotations=None, categories=None))
    assert len(COCOIndex.open(path, "supercategory").categories) == 0


def test_the_data_module_trains_and_evaluates_on_them(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        write_split(tmp_path, split, grouped())
    data = small_module(tmp_path, num_classes=3, labels="supercategory", num_workers=1)
    data.setup("fit")
    assert data.categories == Categories((9, 10, 11), ("person", "vehicle", "animal"))
    assert data.describe("val")["name"] == "two images; labels are supercategories"  # pages show it
    batch = next(iter(data.val_dataloader()))
    assert batch.targets[0].labels.tolist() == batch.ground_truths[0].labels.tolist() == [1, 0, 2, 1]
    with pytest.raises(InputError, match=r"data\.num_classes is 4, but .* has 3 supercategories; set .* to 3"):
        small_module(tmp_path, num_classes=4, labels="supercategory").setup("fit")


def test_cocos_twelve(coco_mini: Path) -> None:
    index = COCOIndex.open(coco_mini / "annotations" / "instances_val2017.json", "supercategory")
    names = "person vehicle outdoor animal accessory sports kitchen food furniture electronic appliance indoor"
    assert (index.categories.names, index.categories.ids) == (tuple(names.split()), tuple(range(91, 103)))
    assert np.unique(index.objects.labels).tolist() == list(range(12))

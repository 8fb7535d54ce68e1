"""What is known to be wrong with a data set is said before the first step, all of it at once."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fpn_lightning.data import checks
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError

from .builders import annotation, document, many_images, small_module, write_json, write_split


def with_masks(count: int) -> dict[str, Any]:
    """Images with one object each, which has a polygon and the area of its box."""
    content = many_images(count)
    for record in content["annotations"]:
        x, y, w, h = record["bbox"]
        record["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        record["area"] = w * h
    return content


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The content of two splits whose images are written; a test changes it and writes the annotations."""
    contents = {"train2017": with_masks(14), "val2017": with_masks(5)}
    for split, content in contents.items():
        write_split(tmp_path, split, content)
    return contents


def setup(root: Path, splits: dict[str, Any], **options: Any) -> list[str]:
    """Set a data module up for ``fit``; returns the warnings."""
    for split, content in splits.items():
        write_json(root / "annotations" / f"instances_{split}.json", content)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        small_module(root, **options).setup("fit")
    return [str(remark.message) for remark in remarks]


def test_good_data_is_not_remarked_on(tmp_path: Path, splits: dict[str, Any]) -> None:
    assert setup(tmp_path, splits, load_masks=True) == []


def test_all_kinds_of_all_splits_in_one_list(tmp_path: Path, splits: dict[str, Any]) -> None:
    splits["val2017"]["annotations"][4]["segmentation"] = [[10, 10, 40, 40]]
    splits["val2017"]["annotations"][2]["segmentation"] = []
    splits["val2017"]["categories"] = [*splits["val2017"]["categories"], {"id": 4, "name": "bus"}]
    for i in range(1, 13):
        (tmp_path / "train2017" / f"{i:04}.png").unlink()
    (tmp_path / "val2017" / "0001.png").write_bytes(b"\x89PNG")
    Image.new("RGB", (24, 24)).save(tmp_path / "val2017" / "0002.png")
    with pytest.raises(InputError) as error:
        setup(tmp_path, splits, load_masks=True)
    message = str(error.value)
    assert message.startswith("5 problems:\n")
    for part in (
        "train2017: 12 of 14 images are missing: 0001.png (image 1), 0002.png (image 2)",
        "0010.png (image 10) and 2 more; copy the images into this folder",
        "instances_val2017.json: the categories differ from those of "
        + str(tmp_path / "annotations" / "instances_train2017.json"),
        "only in this file: (4, 'bus'); only in the other file: none); give both files the same 'categories'",
        "val2017.json: annotation 3 (image 3) has no usable segmentation: it contains neither polygons nor RLE;",
        "other annotations without a usable segmentation (1): 5",
        "0001.png (image 1): not an image",
        "0002.png (image 2): the file is 24×24 (width × height) but the annotations say 32×24",
    ):
        assert part in message


def test_masks_are_needed_only_where_they_are_loaded(tmp_path: Path, splits: dict[str, Any]) -> None:
    splits["val2017"]["annotations"][4]["segmentation"] = [[10, 10, 40, 40]]
    assert setup(tmp_path, splits) == []
    with pytest.raises(InputError, match=r"annotation 5 \(image 5\) .* at least 3 points; masks are needed"):
        setup(tmp_path, splits, load_masks=True)
    assert setup(tmp_path, splits, load_masks=True, max_val_images=4) == []  # image 5 is not used


def test_reported_data_sets(reported: Path) -> None:
    with pytest.raises(InputError, match=r"annotation 1006 \(image 102\) has no usable segmentation: a polygon"):
        small_module(reported / "two_point_polygon", num_classes=3, load_masks=True).setup("fit")
    with pytest.raises(InputError, match=r"instances_train2017\.json: all 12 objects are crowd regions"):
        small_module(reported / "all_crowd", num_classes=3).setup("fit")


def test_val_split_without_annotations(tmp_path: Path, splits: dict[str, Any]) -> None:
    del splits["val2017"]["annotations"]
    with pytest.raises(InputError, match=r"instances_val2017\.json has no annotations to evaluate with"):
        setup(tmp_path, splits)


def test_wrong_annotations_of_both_splits_are_in_one_list(tmp_path: Path, splits: dict[str, Any]) -> None:
    del splits["train2017"]["annotations"][0]["area"]
    splits["val2017"]["annotations"][0]["image_id"] = 77
    data = small_module(tmp_path)
    for split, content in splits.items():
        write_json(tmp_path / "annotations" / f"instances_{split}.json", content)
    data.prepare_data()  # leaves it to setup(), which all processes run
    with pytest.raises(InputError, match=r"(?s)'area' is missing.*annotation 1: unknown image_id 77"):
        data.setup("fit")


def test_files_in_sub_folders(tmp_path: Path) -> None:
    content = document(images=[{"id": 7, "file_name": "./day//a.png", "height": 60, "width": 80}])
    content["annotations"] = [annotation(1, 7, 1, [0, 0, 9, 9])]
    for split in ("train2017", "val2017"):
        write_split(tmp_path, split, content)
    small_module(tmp_path).setup("fit")
    (tmp_path / "val2017" / "day" / "a.png").unlink()
    with pytest.raises(InputError, match=r"val2017: 1 of 1 images are missing: \./day//a\.png"):
        small_module(tmp_path).setup("fit")


def test_headers_of_large_splits_are_read_of_some_images(
    tmp_path: Path, splits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MAX_HEADERS", 4)
    opened = []
    monkeypatch.setattr(checks, "check_header", lambda path, size, image_id: opened.append(image_id) or 1)
    setup(tmp_path, splits)
    assert sorted(opened) == sorted([1, 5, 9, 14, 1, 2, 3, 5])


def test_files_are_looked_for_in_a_listing_and_not_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(tmp_path, "train2017", with_masks(300))
    index = COCOIndex.open(tmp_path / "annotations" / "instances_train2017.json")
    monkeypatch.setattr(checks, "MAX_HEADERS", 0)
    calls: list[str] = []
    for owner, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (io, "open")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, name=name, real=real, **k: (calls.append(name), real(*a, **k))[1])
    assert checks.split_findings(index, tmp_path / "train2017", np.arange(300), with_masks=True) == ([], [])
    assert 1 <= len(calls) <= 5


def test_orientation_tags_are_counted_and_said_once(tmp_path: Path, splits: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("0001.png", "0003.png"):
        with Image.open(tmp_path / "val2017" / name) as image:
            image.save(tmp_path / "val2017" / name, exif=exif)
    (remark,) = setup(tmp_path, splits)
    assert "val2017: 2 of the 5 checked images have an EXIF orientation tag. The tag is ignored" in remark


@pytest.mark.parametrize(
    ("areas", "message"),
    [
        ([0] * 5, "'area' is 0 or less for 5 of 5 objects"),
        ([0, 9, 9, 9, 9], "'area' is 0 or less for 1 of 5 objects"),
        ([1] * 5, "'area' is 1 for all 5 objects"),
    ],
)
def test_areas_that_cannot_be(tmp_path: Path, splits: dict[str, Any], areas: list[int], message: str) -> None:
    for record, area in zip(splits["val2017"]["annotations"], areas, strict=True):
        record["area"] = area
    (remark,) = setup(tmp_path, splits)
    assert message in remark
    assert "instances_val2017.json" in remark


def test_boxes_that_look_like_corners(tmp_path: Path, splits: dict[str, Any]) -> None:
    for record in splits["train2017"]["annotations"]:
        record["bbox"] = [12, 13, 22, 22]
    with pytest.raises(InputError, match=r"instances_train2017\.json: all boxes look like corners x1, y1, x2, y2"):
        setup(tmp_path, splits)


def test_fractions_are_one_cause_and_no_other(tmp_path: Path, splits: dict[str, Any]) -> None:
    for record in splits["train2017"]["annotations"]:
        record["bbox"] = [0.1, 0.1, 0.5, 0.5]
    with pytest.raises(InputError) as error:
        setup(tmp_path, splits)
    (problem,) = error.value.problems
    assert problem.endswith(
        "(14 small); all box coordinates are at most 1; write pixels of the image file, not fractions of the image's "
        "size"
    )


def test_exchanged_sides_say_once_what_to_do(tmp_path: Path, splits: dict[str, Any]) -> None:
    for record in splits["val2017"]["images"]:
        record["width"], record["height"] = record["height"], record["width"]
    with pytest.raises(InputError) as error:
        setup(tmp_path, splits)
    (problem,) = error.value.problems
    assert problem.count("if the boxes fit the image as a viewer shows it (turned") == 1
    assert "0001.png (image 1): the file is 32×24 (width × height) but the annotations say 24×32" in problem
    assert problem.endswith(
        "; other images with the same fault (4): " + ", ".join(f"000{i}.png (image {i})" for i in range(2, 6))
    )


def test_a_folder_of_another_computer_in_file_names(tmp_path: Path, splits: dict[str, Any]) -> None:
    for record in splits["val2017"]["images"]:
        record["file_name"] = f"export/images/{record['file_name']}"
    with pytest.raises(InputError, match=r"5 of 5 images are missing.*lie directly in the image folder: remove"):
        setup(tmp_path, splits)


def test_categories_without_objects_to_train_on_are_named(tmp_path: Path, splits: dict[str, Any]) -> None:
    for content in splits.values():
        content["categories"] = [*content["categories"], {"id": 9, "name": "[b]bus"}]
    (remark,) = setup(tmp_path, splits, num_classes=3)
    assert remark == "instances_train2017.json: 1 of 3 categories have no object to train on: '[b]bus'"


def test_equal_objects_may_have_equal_areas(tmp_path: Path, splits: dict[str, Any]) -> None:
    for record in splits["val2017"]["annotations"]:
        record["bbox"], record["area"] = [2, 2, *((10, 5) if record["id"] % 2 else (5, 10))], 50
    assert setup(tmp_path, splits) == []


def test_crowds_left_out_are_counted(tmp_path: Path, splits: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    splits["train2017"]["annotations"][0]["iscrowd"] = 1
    with caplog.at_level("INFO"):
        setup(tmp_path, splits)
    assert "left out: 0 inverted, 0 empty, 0 outside, 0 small, 1 crowd, 1 images_without_objects" in caplog.text

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from fpn_lightning.data.coco.index import COCOIndex, split_paths
from fpn_lightning.errors import InputError
from tests.data.builders import document, write_json


class TestContent:
    def test_by_hand(self, tmp_path: Path) -> None:
        index = COCOIndex.open(write_json(tmp_path / "a.json", document()))
        assert index.image_ids.tolist() == [7, 9]
        assert index.sizes.tolist() == [[60, 80], [80, 60]]
        assert [index.file_name(place) for place in (0, 1)] == ["a.png", "b.png"]
        objects = index.objects_of(0)
        assert objects.annotation_ids.tolist() == [12, 11, 13]  # the file's order, not the ids'
        assert objects.boxes_xywh.tolist() == [[10.1, 10.2, 10.5, 10.25], [0, 0, 30, 30], [0, 0, 80, 60]]
        assert objects.areas.tolist() == [50.5] * 3
        assert objects.is_crowd.tolist() == [False, False, True]
        assert objects.labels.tolist() == [1, 0, 0]  # category 1 is label 0, 3 is 1
        assert [len(array) for array in index.objects_of(1)] == [0] * 5
        assert index.categories.names == ("person", "car")
        assert index.description == "two images"
        assert index.row(9) == 1
        with pytest.raises(KeyError):
            index.row(8)

    def test_segmentations(self, tmp_path: Path) -> None:
        content = document()
        index = COCOIndex.open(write_json(tmp_path / "a.json", content))
        bitmaps = [mask_api.decode(mask) for mask in index.masks_of(0)]
        # Two polygons of 10 x 10 px, and a crowd of the first 100 pixels.
        assert [int(bitmap.sum()) for bitmap in bitmaps] == [100, 100, 100]
        assert {bitmap.shape for bitmap in bitmaps} == {(60, 80)}
        assert bitmaps[0][10:20, 10:20].all()
        assert index.masks_of(1) == []
        content["annotations"][1].pop("segmentation")
        index = COCOIndex.open(write_json(tmp_path / "b.json", content))
        with pytest.raises(InputError, match=r"annotation 11 .*no segmentation"):
            index.masks_of(0)

    @pytest.mark.parametrize("split", ["train2017", "val2017"])
    def test_equals_pycocotools(self, coco_mini: Path, split: str) -> None:
        path = coco_mini / "annotations" / f"instances_{split}.json"
        index, reference = COCOIndex.open(path), COCO(str(path))
        assert index.image_ids.tolist() == sorted(reference.getImgIds())
        for place, image_id in enumerate(index.image_ids.tolist()):
            image, expected = reference.imgs[image_id], reference.imgToAnns[image_id]
            assert (index.file_name(place), index.sizes[place].tolist()) == (
                image["file_name"],
                [image["height"], image["width"]],
            )
            objects = index.objects_of(place)
            assert objects.annotation_ids.tolist() == [record["id"] for record in expected]
            assert objects.boxes_xywh.tolist() == [record["bbox"] for record in expected]
            assert objects.areas.tolist() == [record["area"] for record in expected]
            assert objects.is_crowd.tolist() == [bool(record["iscrowd"]) for record in expected]
            category_ids = index.categories.to_category_ids(objects.labels)
            assert category_ids.tolist() == [record["category_id"] for record in expected]
            masks = index.masks_of(place)
            assert [mask["size"] for mask in masks] == [[image["height"], image["width"]]] * len(expected)
            coded = [reference.annToRLE(record)["counts"] for record in expected]
            assert [mask["counts"].encode() for mask in masks] == coded

    def test_labels_of_all_80_categories(self, coco_mini: Path) -> None:
        categories = COCOIndex.open(coco_mini / "annotations" / "instances_val2017.json").categories
        labels = np.arange(80)
        category_ids = categories.to_category_ids(labels)
        assert (category_ids[0], category_ids[11], category_ids[79]) == (1, 13, 90)  # 12 is unused
        assert categories.to_labels(category_ids).tolist() == labels.tolist()
        assert len(set(category_ids.tolist())) == 80
        for wrong in (-1, 80):
            with pytest.raises(IndexError):
                categories.to_category_ids(np.array([wrong]))
        with pytest.raises(KeyError, match="12"):
            categories.to_labels(np.array([1, 12]))

    def test_split_without_annotations(self, tmp_path: Path) -> None:
        index = COCOIndex.open(write_json(tmp_path / "a.json", document(annotations=None)))
        assert not index.has_annotations
        assert len(index.objects_of(0).labels) == 0
        assert COCOIndex.open(write_json(tmp_path / "b.json", document(annotations=[]))).has_annotations

    def test_copy_in_another_process_maps_the_file(self, tmp_path: Path) -> None:
        index = COCOIndex.open(write_json(tmp_path / "a.json", document()))
        sent = pickle.dumps(index)
        assert len(sent) < 1000
        assert pickle.loads(sent).objects_of(0).labels.tolist() == [1, 0, 0]
        with pytest.raises(ValueError, match="read-only"):
            index.objects.areas[0] = 1


class TestSplitPaths:
    def test_layout(self, tmp_path: Path) -> None:
        for path in ("annotations/instances_val2017.json", "annotations/image_info_test-dev2017.json"):
            write_json(tmp_path / path, {})
        for folder in ("val2017", "test2017"):
            (tmp_path / folder).mkdir()
        assert split_paths(tmp_path, "val2017") == (
            tmp_path / "annotations/instances_val2017.json",
            tmp_path / "val2017",
        )
        assert split_paths(tmp_path, "test-dev2017")[0].name == "image_info_test-dev2017.json"
        assert split_paths(tmp_path, "test-dev2017")[1] == tmp_path / "test2017"

    @pytest.mark.parametrize("there", ["", "annotations", "annotations/instances_val2017.json/", "val2017"])
    def test_missing(self, tmp_path: Path, there: str) -> None:
        root = tmp_path / "coco"
        with pytest.raises(
            InputError, match=rf"{root} is missing.*data\.download --root {root}.*data\.synthetic --root {root}"
        ):
            split_paths(root, "val2017")
        (root / there).mkdir(parents=True)
        with pytest.raises(InputError, match="is missing") as error:
            split_paths(root, "val2017")
        assert "data.download" not in str(error.value)  # the folder is there, so it is somebody's own

    def test_other_annotation_files_are_named(self, tmp_path: Path) -> None:
        write_json(tmp_path / "annotations" / "instances_validation.json", {})
        with pytest.raises(
            InputError,
            match=r"instances_val\.json is missing; the folder contains instances_validation\.json .*data set needs",
        ):
            split_paths(tmp_path, "val")

    def test_other_folders_of_images_are_named(self, tmp_path: Path) -> None:
        write_json(tmp_path / "annotations" / "instances_val.json", {})
        with pytest.raises(InputError, match=r"val is missing.*split val\)$"):
            split_paths(tmp_path, "val")
        (tmp_path / "images").mkdir()
        with pytest.raises(InputError, match=rf"contains images\. .*: ln -s images {tmp_path}/val$"):
            split_paths(tmp_path, "val")


def test_json_is_not_altered(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", document())
    before = path.read_bytes()
    COCOIndex.open(path)
    assert path.read_bytes() == before
    assert json.loads(before) == document()

from __future__ import annotations

from pathlib import Path

import pytest

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError
from tests.data.builders import annotation, document, one_object, write_json

WRONG = {
    "id 0": (one_object(id=0), r"annotation id 0.*number annotations from 1"),
    "negative id": (one_object(id=-4), r"annotation id -4"),
    "duplicate annotation": (
        document(annotations=[annotation(5, 7, 1, [0, 0, 5, 5]), annotation(5, 9, 1, [0, 0, 5, 5])]),
        r"duplicate annotation id 5",
    ),
    "duplicate image": (document(images=document()["images"][:1] * 2, annotations=[]), r"duplicate image id 9"),
    "duplicate category": (document(categories=[{"id": 1, "name": "x"}] * 2), r"duplicate category id 1"),
    "unknown category": (one_object(category_id=2), r"annotation 5: unknown category_id 2"),
    "unknown image": (one_object(image_id=8), r"annotation 5: unknown image_id 8"),
    "three numbers": (one_object(bbox=[1, 2, 3]), r"annotation 5: 'bbox' is \[1, 2, 3\]"),
    "box of strings": (one_object(bbox=["1", 2, 3, 4]), r"annotation 5: 'bbox'"),
    "NaN": (one_object(bbox=[1, 2, 3, float("nan")]), r"annotation 5: 'bbox'"),
    "infinite": (one_object(bbox=[1, 2, 3, float("inf")]), r"annotation 5: 'bbox'"),
    "huge integer": (one_object(bbox=[1, 2, 3, 10**400]), r"annotation 5: 'bbox'"),
    "area missing": (
        document(annotations=[{"id": 5, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]}]),
        r"annotation 5: 'area' is missing.*width \* height",
    ),
    "area NaN": (one_object(area=float("nan")), r"annotation 5: 'area'"),
    "iscrowd 2": (one_object(iscrowd=2), r"annotation 5: 'iscrowd' is 2"),
    "segmentation": (one_object(segmentation="x"), r"annotation 5: 'segmentation'"),
    "image_id missing": (
        document(annotations=[{"id": 5, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 1}]),
        r"annotation 5: 'image_id' is missing",
    ),
    "id missing": (document(annotations=[{"image_id": 7}]), r"annotation at index 0: 'id' is missing"),
    "id is a string": (one_object(id="5"), r"'id' is '5'"),
    "id is true": (one_object(id=True), r"'id' is True"),
    "annotation is a list": (document(annotations=[[1]]), r"entry at index 0 of 'annotations' is \[1\]; exp"),
    "annotations are an object": (document(annotations={"a": 1}), r"'annotations' is a dict"),
    "no images": (document(images=[], annotations=[]), r"'images' is empty"),
    "images missing": (document(images=None), r"'images' is missing"),
    "categories missing": (document(categories=None), r"'categories' is missing"),
    "negative image id": (document(images=[{"id": -1}], annotations=[]), r"'id' is -1"),
    "width 0": (
        document(images=[{"id": 1, "file_name": "a", "height": 5, "width": 0}], annotations=[]),
        r"image 1: 'width' is 0",
    ),
    "a list": ([1, 2], r"expected a JSON object"),
}


class TestWrongFiles:
    @pytest.mark.parametrize("case", WRONG)
    def test_is_named_by_file_and_id(self, tmp_path: Path, case: str) -> None:
        content, message = WRONG[case]
        path = write_json(tmp_path / "wrong.json", content)
        with pytest.raises(InputError, match=message) as error:
            COCOIndex.open(path)
        assert str(path) in str(error.value)
        assert sorted(tmp_path.rglob("*")) == [path]

    def test_every_kind_of_mistake_is_in_one_list(self, tmp_path: Path) -> None:
        content = document(annotations=[annotation(i, 7, 1, [0, 0, 5, 5]) for i in range(1, 20)])
        for record in content["annotations"]:
            del record["area"]
        content["annotations"][3]["bbox"] = [1, 2, 3]
        content["images"][0]["width"] = 0
        with pytest.raises(InputError) as error:
            COCOIndex.open(write_json(tmp_path / "wrong.json", content))
        first, *lines = str(error.value).splitlines()
        assert first == "3 problems:"
        assert [line.partition("wrong.json: ")[2][:24] for line in lines] == [
            "image 9: 'width' is 0; e",
            "annotation 4: 'bbox' is ",
            "annotation 1: 'area' is ",
        ]
        assert lines[2].endswith("; also wrong for other ids (18): 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more")

    def test_only_boxes_can_do_without_sizes_and_file_names(self, tmp_path: Path) -> None:
        path = write_json(tmp_path / "a.json", document(images=[{"id": 7}, {"id": 9, "file_name": "b.png"}]))
        assert COCOIndex.open(path, only_boxes=True).objects_of(0).annotation_ids.tolist() == [12, 11, 13]
        with pytest.raises(InputError, match=r"(?s)image 7: 'height' is missing.* ids \(1\).*image 7: 'file_name' is"):
            COCOIndex.open(path)

    @pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe\x00", b"not json", b"[" * 100_000])
    def test_not_json(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "wrong.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"wrong\.json: not valid JSON"):
            COCOIndex.open(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.json: cannot read"):
            COCOIndex.open(tmp_path / "none.json")

    def test_other_categories(self, tmp_path: Path) -> None:
        index = COCOIndex.open(write_json(tmp_path / "a.json", document()))
        index.check_categories(2, index)
        with pytest.raises(InputError, match=r"data\.num_classes is 80.*set data\.num_classes to 2"):
            index.check_categories(80, index)
        content = document()
        content["categories"] = [{"id": 0, "name": "animals"}, *content["categories"]]
        grouped = COCOIndex.open(write_json(tmp_path / "c.json", content))
        with pytest.raises(InputError, match=r"num_classes to 3, or delete the categories without objects: animals"):
            grouped.check_categories(2, grouped)
        other = COCOIndex.open(
            write_json(
                tmp_path / "b.json",
                one_object(category_id=1) | {"categories": [{"id": 1, "name": "car"}, {"id": 3, "name": "person"}]},
            )
        )
        with pytest.raises(InputError, match=r"this file: \(1, 'car'\), \(3, 'person'\); .* file: \(1, 'person'\)"):
            other.check_categories(2, index)

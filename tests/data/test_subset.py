from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpn_lightning.data.coco.index import COCOIndex, split_paths
from fpn_lightning.data.subset import main, read_ids
from fpn_lightning.errors import InputError
from tests.command_line import REPOSITORY

from .builders import document, many_images, small_module, write_json, write_split

SPLITS = REPOSITORY / "configs" / "splits"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Images 1..8 and 101..104 in two splits, as COCO has them; the second has other image and object ids."""
    second = many_images(4)
    for image in second["images"]:
        image["id"] += 100
    for item in second["annotations"]:
        item |= {"id": item["id"] + 50, "image_id": item["image_id"] + 100}
    for image in second["images"]:
        image["file_name"] = f"v{image['file_name']}"
    write_split(tmp_path / "coco", "train2017", many_images(8))
    write_split(tmp_path / "coco", "val2017", second)
    return tmp_path / "coco"


def build(root: Path, ids: str | Path, *more: str, split: str = "few") -> int:
    if isinstance(ids, str):
        (root.parent / "ids.txt").write_text(ids)
        ids = root.parent / "ids.txt"
    return main(["--root", str(root), "--ids", str(ids), "--split", split, *more])


def objects(root: Path, split: str) -> dict[int, Any]:
    """Boxes, areas, crowds and category ids of every image."""
    index = COCOIndex.open(split_paths(root, split)[0])
    found = {}
    for place, image_id in enumerate(index.image_ids.tolist()):
        _, boxes, areas, is_crowd, labels = index.objects_of(place)
        found[image_id] = np.column_stack((boxes, areas, is_crowd, index.categories.to_category_ids(labels)))
    return found


def test_images_and_objects_of_both_files(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(coco, "103 # of val2017\n\n# comment\n2\n7\n", "--out", str(out)) == 0
    made = json.loads((out / "annotations" / "instances_few.json").read_text())
    sources = [json.loads((coco / "annotations" / f"instances_{s}.json").read_text()) for s in ("train2017", "val2017")]
    assert made["images"] == [sources[0]["images"][1], sources[0]["images"][6], sources[1]["images"][2]]
    assert made["annotations"] == [
        item for source in sources for item in source["annotations"] if item["image_id"] in (2, 7, 103)
    ]
    assert made["categories"] == sources[0]["categories"]
    assert made["info"]["description"] == "few of two images"
    names = {"0002.png": "train2017", "0007.png": "train2017", "v0003.png": "val2017"}
    assert {path.name for path in (out / "few").iterdir()} == names.keys()
    for name, source in names.items():
        assert (out / "few" / name).samefile(coco / source / name)
    data = small_module(out, train_split="few", val_split="few")
    assert [batch.images.image_ids.tolist() for batch in data.val_dataloader()] == [[2], [7], [103]]


def test_links_to_images_are_followed(coco: Path, tmp_path: Path) -> None:
    (coco / "train2017").rename(coco / "stored")
    (coco / "train2017").mkdir()
    (coco / "train2017" / "0001.png").symlink_to("../stored/0001.png")
    out = tmp_path / "elsewhere" / "out"
    assert build(coco, "1\n", "--out", str(out)) == 0
    assert (out / "few" / "0001.png").samefile(coco / "stored" / "0001.png")


def test_the_same_command_again_and_over_other_files(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert build(coco, "1\n102\n") == 0
    first = (coco / "annotations" / "instances_few.json").read_bytes()
    (coco / "few" / "0001.png").unlink()
    (coco / "few" / "0001.png").write_bytes(b"another file")

    def no_links(*_: Any) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", no_links)
    assert build(coco, "1\n102\n3\n", "--overwrite") == 0
    for name in ("0001.png", "0003.png"):
        assert (coco / "few" / name).read_bytes() == (coco / "train2017" / name).read_bytes()
        assert not (coco / "few" / name).samefile(coco / "train2017" / name)
    assert build(coco, "102\n1\n", "--overwrite") == 0  # the order of the list does not matter
    assert (coco / "annotations" / "instances_few.json").read_bytes() == first


def test_another_split_is_overwritten_only_if_told_so(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(coco, "2\n") == 0
    file = coco / "annotations" / "instances_few.json"
    before = file.read_bytes()
    assert build(coco, "3\n") == 2
    assert f"{file} exists with other content" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert build(coco, "3\n", "--overwrite") == 0
    assert objects(coco, "few").keys() == {3}


def test_everything_missing_is_in_one_error(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (coco / "val2017" / "v0003.png").unlink()
    (coco / "train2017" / "0001.png").unlink()
    assert build(coco, "55\n1\n2\n103\n9\n") == 2
    message = capsys.readouterr().err
    assert "ids.txt: 2 ids are in none of the splits train2017, val2017: 9, 55; 2 image files are missing: " in message
    assert all(name in message for name in ("train2017/0001.png", "val2017/v0003.png"))
    assert {path.name for path in coco.iterdir()} == {"annotations", "train2017", "val2017"}


@pytest.mark.parametrize(
    ("ids", "more", "message"),
    [
        ("1\nx\n", [], "ids.txt: line 2 is 'x'; write one image id per line"),
        ("1\n2\n1\n", [], "line 3 is '1'"),
        ("# none\n", [], "the file contains no image id"),
        ("1\n", ["--from", "train2014"], "instances_train2014.json is missing. Download COCO"),
        ("1\n", ["--split", "val2017"], "--split val2017 is also a source of images"),
    ],
)
def test_wrong_lists_and_splits(
    coco: Path, capsys: pytest.CaptureFixture[str], ids: str, more: list[str], message: str
) -> None:
    assert build(coco, ids, *more) == 2
    assert message in capsys.readouterr().err


def test_sources_that_do_not_go_together(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"categories": document()["categories"][::-1]})
    assert build(coco, "1\n101\n") == 2
    assert "its categories are not those of" in capsys.readouterr().err
    content["images"][0]["file_name"] = "0001.png"
    (coco / "val2017" / "v0001.png").rename(coco / "val2017" / "0001.png")
    write_json(path, content)
    assert build(coco, "1\n101\n") == 2
    assert "two images of the list have the file name 0001.png" in capsys.readouterr().err
    content["annotations"][1]["id"] = 1
    write_json(path, content)
    assert build(coco, "1\n102\n") == 2
    assert "duplicate annotation id 1" in capsys.readouterr().err
    assert not (coco / "few").exists()


def test_box_areas(coco: Path) -> None:
    assert build(coco, "1\n3\n", "--box-areas") == 0
    for rows in objects(coco, "few").values():
        np.testing.assert_allclose(rows[:, 4], rows[:, 2] * rows[:, 3], rtol=0, atol=1e-4)
    description = COCOIndex.open(coco / "annotations" / "instances_few.json").description
    assert description == "few of two images; areas are box areas"


class TestCommittedSplits:
    def test_lists(self) -> None:
        train, val, tune, fit = (read_ids(SPLITS / f"small_{name}.txt") for name in ("train", "val", "tune", "fit"))
        assert [len(ids) for ids in (train, val, tune, fit)] == [600, 242, 100, 500]
        assert all(ids == sorted(ids) for ids in (train, val, tune, fit))
        assert not set(train) & set(val)
        assert tune == train[::6]
        assert fit == [image_id for i, image_id in enumerate(train) if i % 6]

    def test_a_missing_list(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.txt: cannot read the list of image ids"):
            read_ids(tmp_path / "none.txt")

    @pytest.mark.parametrize("name", ["small_train", "small_val", "small_tune", "small_fit"])
    def test_objects_equal_those_of_coco_small(self, coco_small: Path, tmp_path: Path, name: str) -> None:
        out, source = tmp_path / "out", "small_val" if name == "small_val" else "small_train"
        assert build(coco_small, SPLITS / f"{name}.txt", "--from", source, "--out", str(out), split=name) == 0
        made, expected = objects(out, name), objects(coco_small, source)
        assert list(made) == read_ids(SPLITS / f"{name}.txt")
        assert (made.keys() == expected.keys()) == (name in ("small_train", "small_val"))
        for image_id, rows in made.items():
            np.testing.assert_array_equal(rows, expected[image_id])

    def test_official_boxes_equal_those_of_coco_small(self, coco_small: Path, coco_mini: Path, tmp_path: Path) -> None:
        """Images that the small splits share with another part of COCO, with its complete official annotations."""
        expected = objects(coco_small, "small_train") | objects(coco_small, "small_val")
        official = objects(coco_mini, "train2017").keys() | objects(coco_mini, "val2017").keys()
        shared = sorted(expected.keys() & official)
        (tmp_path / "shared.txt").write_text("\n".join(map(str, shared)))
        out = tmp_path / "out"
        assert build(coco_mini, tmp_path / "shared.txt", "--out", str(out), "--box-areas") == 0
        made, compared = objects(out, "few"), 0
        for image_id in shared:
            rows, given = (found[image_id][found[image_id][:, 5] == 0] for found in (made, expected))  # no crowds
            rows, given = (found[np.lexsort(found[:, :4].round().T)] for found in (rows, given))
            np.testing.assert_allclose(rows[:, :4], given[:, :4], rtol=0, atol=0.011)
            np.testing.assert_array_equal(rows[:, 6], given[:, 6])
            compared += len(rows)
        assert compared > 100, (len(shared), compared)

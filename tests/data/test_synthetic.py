"""The generated data set: its files are like COCO's and depend only on the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fpn_lightning.data.synthetic import area_thresholds, generate, generation
from fpn_lightning.data.synthetic.__main__ import main
from fpn_lightning.data.synthetic.scene import draw_scene
from fpn_lightning.data.synthetic.shapes import CATEGORIES
from fpn_lightning.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    generate(folder, {"train": 150, "val": 20}, workers=1)
    return folder


@pytest.fixture(scope="module")
def content(root: Path) -> dict[str, Any]:
    return json.loads((root / "annotations" / "instances_train.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_have_cocos_fields(root: Path, content: dict[str, Any]) -> None:
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    ids = [image["id"] for image in content["images"]]
    assert len(set(ids)) == 150
    assert content["images"][1] == {"license": 1, "file_name": "000000000004.jpg", "height": 160, "width": 160, "id": 4}
    assert [item["id"] for item in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    categories = [category["id"] for category in content["categories"]]
    assert len(categories) == 11
    assert categories != list(range(1, 12)), "contiguous ids would not exercise the mapping"
    for item in content["annotations"]:
        assert set(item) == {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
        assert item["image_id"] in ids
        assert item["category_id"] in categories
        assert item["iscrowd"] in (0, 1)
    assert sorted(path.name for path in (root / "train").iterdir()) == [i["file_name"] for i in content["images"]]
    assert cv2.imread(str(root / "train" / "000000000004.jpg")).shape == (160, 160, 3)


def test_pycocotools_agrees_with_area_and_box_and_masks_are_disjoint(root: Path) -> None:
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    for key in coco.getImgIds():
        items = coco.loadAnns(coco.getAnnIds(imgIds=key))
        masks = [coco.annToMask(item) for item in items]
        assert not masks or np.sum(masks, axis=0).max() == 1
        for item, mask in zip(items, masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert item["area"] == len(xs)
            assert item["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert all(isinstance(value, float) for value in item["bbox"])


def test_every_form_of_segmentation_occurs(content: dict[str, Any]) -> None:
    crowd = [item["segmentation"] for item in content["annotations"] if item["iscrowd"]]
    single = [item["segmentation"] for item in content["annotations"] if not item["iscrowd"]]
    assert crowd
    assert all(isinstance(segmentation["counts"], list) for segmentation in crowd)
    assert any(isinstance(segmentation, list) and len(segmentation) == 1 for segmentation in single)
    assert any(isinstance(segmentation, list) and len(segmentation) > 1 for segmentation in single)
    assert any(isinstance(segmentation, dict) and isinstance(segmentation["counts"], str) for segmentation in single)


def test_sizes_and_numbers_of_objects_are_like_cocos(content: dict[str, Any]) -> None:
    areas = np.array([item["area"] for item in content["annotations"] if not item["iscrowd"]])
    assert area_thresholds(554) == (1024.0, 9216.0)
    small, medium = area_thresholds(160)
    assert (small, medium) == (85.0, 769.0)  # 1024 and 9216 times (160/554)² = 0.0834
    shares = np.array([(areas < small).mean(), ((areas >= small) & (areas < medium)).mean(), (areas >= medium).mean()])
    np.testing.assert_allclose(shares, (0.36, 0.39, 0.25), atol=0.05)
    assert areas.max() > 0.35 * 160**2
    per_image = np.bincount([item["image_id"] for item in content["annotations"] if not item["iscrowd"]], minlength=450)
    assert 4 < per_image[1::3].mean() < 6.5
    assert per_image.max() <= 12
    without_objects = 150 - len({item["image_id"] for item in content["annotations"]})
    assert 1 <= without_objects <= 12
    assert 2 <= sum(item["iscrowd"] for item in content["annotations"]) <= 20
    assert {item["category_id"] for item in content["annotations"]} == {category.id for category in CATEGORIES}


def test_same_files_for_any_number_of_workers(tmp_path: Path) -> None:
    generate(tmp_path / "one", {"train": 40}, size=96, workers=1)
    generate(tmp_path / "two", {"train": 40}, size=96, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_first_images_do_not_depend_on_how_many_follow(root: Path, tmp_path: Path, content: dict[str, Any]) -> None:
    generate(tmp_path, {"train": 12}, workers=1)
    few = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    assert few["images"] == content["images"][:12]
    assert few["annotations"] == content["annotations"][: len(few["annotations"])]
    assert content["annotations"][len(few["annotations"])]["image_id"] > few["images"][-1]["id"]
    for image in few["images"]:
        one, other = (folder / "train" / image["file_name"] for folder in (tmp_path, root))
        assert one.read_bytes() == other.read_bytes()


def test_seed_split_and_index_each_give_another_image() -> None:
    base = draw_scene(0, "train", 0, 64).pixels
    np.testing.assert_array_equal(base, draw_scene(0, "train", 0, 64).pixels)
    for other in (draw_scene(1, "train", 0, 64), draw_scene(0, "val", 0, 64), draw_scene(0, "train", 1, 64)):
        assert (other.pixels != base).mean() > 0.5


def test_other_sizes_keep_the_proportions() -> None:
    areas = []
    for index in range(25):
        scene = draw_scene(0, "train", index, 320)
        assert scene.pixels.shape == (320, 320, 3)
        areas += [int(item.mask.sum()) for item in scene.objects if not item.is_crowd]
    small, medium = area_thresholds(320)
    assert 0.2 < np.mean(np.array(areas) < small) < 0.5
    assert 0.1 < np.mean(np.array(areas) >= medium) < 0.4


def test_second_call_keeps_what_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(root)
    monkeypatch.setattr(generation, "draw_scene", lambda *_: pytest.fail("drew an image again"))
    generate(root, {"train": 150, "val": 20}, workers=1)
    assert files(root) == before
    monkeypatch.undo()
    (root / "train" / "000000000004.jpg").unlink()  # a missing file is drawn again
    generate(root, {"train": 150, "val": 20}, workers=1)
    assert files(root) == before


def test_interrupted_generation_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": 6, "val": 2}
    generate(tmp_path / "whole", splits, size=64, workers=1)

    def interrupted(seed: int, split: str, index: int, size: int) -> Any:
        if split == "val":
            raise KeyboardInterrupt
        return draw_scene(seed, split, index, size)

    monkeypatch.setattr(generation, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "broken", splits, size=64, workers=1)
    monkeypatch.undo()
    assert not (tmp_path / "broken" / "synthetic.json").exists()
    generate(tmp_path / "broken", splits, size=64, workers=1)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_a_data_set_with_other_settings_is_kept_or_replaced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    generate(data, {"train": 4, "old": 2}, size=64, workers=1)
    (data / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"data .*seed is 0, not 5.*another root.*--overwrite"):
        generate(data, {"train": 4, "old": 2}, size=64, seed=5, workers=1)
    generate(data, {"train": 2}, size=64, seed=5, workers=1, overwrite=True)
    generate(tmp_path / "fresh", {"train": 2}, size=64, seed=5, workers=1)
    assert files(data) == files(tmp_path / "fresh") | {"notes.txt": b"mine"}


def test_a_folder_with_other_files_or_unreadable_settings_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "000000000001.jpg").write_bytes(b"a photograph")
    with pytest.raises(InputError, match="holds other files"):
        generate(tmp_path, {"train": 1}, size=64, overwrite=True)
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(InputError, match=r"synthetic\.json cannot be read"):
        generate(tmp_path, {"train": 1})
    assert files(tmp_path) == {"train/000000000001.jpg": b"a photograph", "synthetic.json": b"{"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 32}, "size 32"),
        ({"seed": -1}, "seed -1"),
        ({"workers": 0}, "workers 0"),
        ({"splits": {"train": 0}}, "'train': 0 images"),
        ({"splits": {"../up": 1}}, r"'\.\./up'"),
        ({"splits": {"annotations": 1}}, "'annotations'"),
        ({"splits": {}}, "splits: none"),
    ],
)
def test_impossible_settings_are_rejected(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(tmp_path / "data", **({"splits": {"train": 1}} | settings))
    assert not (tmp_path / "data").exists()


def test_the_command_generates_splits_and_reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--root", str(tmp_path), "--train", "3", "--val", "2", "--size", "64", "--workers", "1"]
    main([*arguments, "--split", "tune=1"])
    names = {path.name for path in (tmp_path / "annotations").iterdir()}
    assert names == {f"instances_{split}.json" for split in ("train", "val", "tune")}
    assert len(list((tmp_path / "tune").iterdir())) == 1
    for wrong, message in ((arguments, "with other settings"), ([*arguments, "--split", "tune"], "NAME=COUNT")):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_the_contact_sheet_has_four_rows_of_five_images(root: Path) -> None:
    path = root / "contact_sheet.png"
    assert path.stat().st_size < 400_000
    with Image.open(path) as sheet:
        assert sheet.size[0] / sheet.size[1] == pytest.approx(5 / 4, abs=0.01)

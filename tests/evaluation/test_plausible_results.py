"""Result files that cannot be of an annotation file are rejected; odd but plausible ones are scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpn_lightning.evaluation.__main__ import main

from .reference import image_record, scored

Entry = dict[str, Any]
SIDE = 200
RANDOM = np.random.default_rng(0)
CORNERS = np.sort(RANDOM.integers(0, SIDE, (40, 2, 2)), axis=1).reshape(40, 4).astype(float)  # x1, y1, x2, y2
BOXES = np.hstack((CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2] + 1))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Ten images of 200 px, and their objects as results."""
    annotations = [
        {"id": i + 1, "image_id": 101 + i % 10, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(BOXES.tolist())
    ]
    images = [image_record(image_id, SIDE, SIDE) for image_id in range(101, 111)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    results = [{key: record[key] for key in ("image_id", "category_id", "bbox")} for record in annotations]
    paths = tmp_path / "annotations.json", tmp_path / "results.json"
    for path, written in zip(paths, (content, [{**result, "score": 0.5} for result in results]), strict=True):
        path.write_text(json.dumps(written))
    return paths


def rewrite(files: tuple[Path, Path], change: Callable[[Entry], object]) -> None:
    results = json.loads(files[1].read_text())
    for entry in results:
        change(entry)
    files[1].write_text(json.dumps(results))


def with_boxes(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Entry], object]:
    return lambda entry: entry.update(bbox=function(np.array(entry["bbox"])).tolist())


def corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate((box[:2], box[:2] + box[2:]))


WRONG: dict[str, tuple[Callable[[Entry], object], str]] = {
    "corners": (with_boxes(corners), "all boxes look like corners x1, y1, x2, y2"),
    "end before start": (
        with_boxes(lambda box: np.append(box[:2] + box[2:], -box[2:])),
        "entry 0 (image 101): bbox is",
    ),
    "fractions": (with_boxes(lambda box: box / SIDE), "all box coordinates are at most 1"),
    "of a larger image": (with_boxes(lambda box: box * 5), "of the boxes lie outside their image"),
    "other files": (
        lambda entry: entry.update(file_name=f"{entry['image_id'] % 10 + 101}.png"),
        "(image 101): file_name is '102.png' (the file of image 102), but in the annotation file, image 101 is",
    ),
    "files of another folder": (lambda entry: entry.update(file_name="holiday.jpg"), "file_name is 'holiday.jpg', but"),
    "running numbers": (lambda entry: entry.update(image_id=1), "predict with --data.predict_split"),
    "ids as text": (
        lambda entry: entry.update(image_id=str(entry["image_id"])),
        "image_id is '101'; write it as an integer, without quotes",
    ),
    "category as text": (lambda entry: entry.update(category_id="1"), "category_id is '1'; write it as an integer"),
    "half ids": (lambda entry: entry.update(image_id=101.5), "image_id is 101.5; write it as an integer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_impossible_results_are_rejected(files, capsys, case):
    change, message = WRONG[case]
    rewrite(files, change)
    assert main([*map(str, files), "--metric", "bbox"]) == 2
    error = capsys.readouterr().err
    assert f"{files[1]}: " in error
    assert message in error
    assert sum(line.startswith("error: ") for line in error.splitlines()) == 1


PLAUSIBLE: dict[str, Callable[[Entry], object]] = {
    "ids as floats": lambda entry: entry.update(
        image_id=float(entry["image_id"]), category_id=float(entry["category_id"])
    ),
    "file names": lambda entry: entry.update(file_name=f"{entry['image_id']}.png"),
    "paths": lambda entry: entry.update(file_name=f"/data/val2017/{entry['image_id']}.jpg"),
    "COCO 2014's names": lambda entry: entry.update(file_name=f"COCO_val2014_{entry['image_id']}.jpg"),
    "boxes in the corner": with_boxes(lambda box: np.append(box[:2] / 20, 5 + box[2:] / 2)),
    "nearly the whole image": with_boxes(lambda box: np.array([2, 1, SIDE + 1, SIDE - 2.5])),
    "not clipped": with_boxes(lambda box: box + np.array([-12, -9, 30, 25])),
    "rounded to a negative width": with_boxes(lambda box: np.append(box[:3], -1e-6)),
    "of one pixel": with_boxes(lambda box: np.append(box[:2], [1, 1])),
    "no area at the origin": with_boxes(lambda box: box * 0),
}


@pytest.mark.parametrize("case", PLAUSIBLE)
@pytest.mark.parametrize("metric", ["bbox", "proposals"])
def test_plausible_results_are_scored(files, case, metric):
    rewrite(files, PLAUSIBLE[case])
    scored(*files, "--metric", metric)


def test_a_single_odd_box_is_scored(files):
    results = json.loads(files[1].read_text())
    results[7]["bbox"] = [150, 150, 190, 190]
    files[1].write_text(json.dumps(results))
    scored(*files, "--metric", "bbox")


def test_size_classes_and_areas_stand_beside_the_numbers(files, capsys):
    content = json.loads(files[0].read_text())
    for record in content["annotations"]:
        record["area"] = 0
    files[0].write_text(json.dumps(content))
    assert main([*map(str, files), "--metric", "bbox", "--area-thresholds", "85", "769"]) == 0
    printed = capsys.readouterr()
    assert "size classes: small ≤ 85 px² ≤ medium ≤ 769 px² ≤ large" in printed.out
    assert "note: " in printed.err
    assert "'area' is 0 or less for 40 of 40 objects" in printed.err


def test_boxes_are_scored_of_images_without_size(files):
    content = json.loads(files[0].read_text())
    expected = scored(*files, "--metric", "bbox")
    content["images"] = [{"id": image["id"]} for image in content["images"]]
    files[0].write_text(json.dumps(content))
    assert scored(*files, "--metric", "bbox") == expected
    assert main([*map(str, files), "--metric", "segm"]) == 2

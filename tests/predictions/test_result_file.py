"""Result files: the parts of several processes become one list, ordered by image id."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.errors import InputError
from fpn_lightning.predictions.result_file import ResultFile, detection_lines
from fpn_lightning.structures import DetectionsOrig


def process(rank: int, world_size: int, arrived: list[int]) -> SimpleNamespace:
    """A trainer as one process sees it; records which processes reach the barrier."""
    strategy = SimpleNamespace(barrier=lambda: arrived.append(rank))
    return SimpleNamespace(strategy=strategy, world_size=world_size, is_global_zero=rank == 0)


def test_images_of_all_processes_come_in_order_of_their_ids(tmp_path):
    path, arrived = tmp_path / "folder" / "found.json", []
    first, second, idle = (ResultFile(path, rank) for rank in range(3))
    for file, image_ids in ((first, (1, 4, 9)), (second, (2, 3))):
        for image_id in image_ids:
            file.write(image_id, [{"image_id": image_id, "score": score} for score in (0.9, 0.1)])
    second.write(5, [])
    assert idle.complete(process(2, 3, arrived)) == []
    assert second.complete(process(1, 3, arrived), [{"image_id": 7}]) == []
    assert not path.exists()
    assert first.complete(process(0, 3, arrived), [{"image_id": 8}]) == [{"image_id": 7}, {"image_id": 8}]
    assert arrived == [2, 1, 0]
    assert first.num_results == 10
    rows = json.loads(path.read_text())
    assert [(row["image_id"], row["score"]) for row in rows] == [(i, s) for i in (1, 2, 3, 4, 9) for s in (0.9, 0.1)]
    assert [file.name for file in path.parent.iterdir()] == ["found.json"]


def test_no_results_give_an_empty_list_and_a_failure_leaves_no_file(tmp_path):
    nothing = ResultFile(tmp_path / "nothing.json", 0)
    nothing.write(1, [])
    nothing.complete(process(0, 1, []))
    assert json.loads((tmp_path / "nothing.json").read_text()) == []
    ResultFile(tmp_path / "failed.json", 0).discard()
    assert [file.name for file in tmp_path.iterdir()] == ["nothing.json"]


def test_lines_have_cocos_format():
    boxes = torch.tensor([[1.5, 2.0, 11.5, 6.0], [0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    found = DetectionsOrig(42, boxes, torch.tensor([0.75, 0.5, 0.25]), torch.tensor([1, 0, 0]))
    assert detection_lines(found, 2, Categories((3, 90), ("car", "brush"))) == [
        {"image_id": 42, "category_id": 90, "bbox": [1.5, 2.0, 10.0, 4.0], "score": pytest.approx(0.75)},
        {"image_id": 42, "category_id": 3, "bbox": [0.0, 0.0, 3.0, 4.0], "score": pytest.approx(0.5)},
    ]


def test_two_commands_do_not_write_one_file(tmp_path):
    path = tmp_path / "detections.json"
    first = ResultFile(path, 0)
    first.write(1, [{"score": 0.5}])
    with pytest.raises(InputError, match=r"another process writes .*: wait for this process, or stop it first"):
        ResultFile(path, 0)
    first.discard()
    ResultFile(path, 0).discard()

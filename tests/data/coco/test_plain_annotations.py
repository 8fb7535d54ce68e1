"""The fast reader of annotations gives what the general one gives, and leaves everything wrong to it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpn_lightning.data.coco import annotations, pieces
from fpn_lightning.data.coco.annotations import read_annotations
from fpn_lightning.data.coco.plain_annotations import plain_annotations
from tests.data.builders import document, one_object

SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
SEGMENTATIONS = [
    SQUARE,
    [*SQUARE, *SQUARE],
    [],
    None,
    [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 2, 3, 4, 5, 1e6]],
    [[1, 2, 3, 4, 5, None]],
    [7],
    {"size": [60, 80], "counts": [0, 100, 4700]},
    {"size": [60, 80], "counts": [0, 100, 4701]},
    {"size": [80, 60], "counts": [0, 100, 4700]},
    {"size": [60, 80], "counts": "PPPPPPPPPPPP0"},
    {},
]


def general(monkeypatch: pytest.MonkeyPatch, content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with monkeypatch.context() as patch:
        patch.setattr(annotations, "plain_annotations", lambda text, size_of: None)
        return read_annotations(Path("a.json"), content)


def is_plain(annotations: list[Any]) -> bool:
    return plain_annotations(memoryview(json.dumps(annotations).encode()), {7: (60, 80)}) is not None


def assert_same(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        if not name.startswith("segmentation"):
            np.testing.assert_array_equal(found[1][name], array)
    assert segmentations(found[1]) == segmentations(expected[1])


def segmentations(arrays: dict[str, np.ndarray]) -> list[Any]:
    texts = arrays["segmentations"].tobytes()
    return [json.loads(texts[a:b] or b"null") for a, b in pairwise(arrays["segmentation_offsets"])]


@pytest.mark.parametrize("size", [1, 2**18])
@pytest.mark.parametrize("indent", [None, 2])
def test_equals_the_general_reader_on_every_kind_of_segmentation(monkeypatch, size, indent):
    monkeypatch.setattr(pieces, "SIZE", size)
    content = document()
    (kept,) = (record for record in content["annotations"] if record["id"] == 11)
    content["annotations"] += [
        {**kept, "id": 100 + i, "image_id": 7 + i % 2 * 2, "segmentation": segmentation, "other": {"a": [{}, {}]}}
        for i, segmentation in enumerate(SEGMENTATIONS)
    ]
    del content["annotations"][1]["segmentation"], content["annotations"][0]["iscrowd"]
    assert size == 1 or is_plain(content["annotations"])
    text = json.dumps(content, indent=indent).encode()
    assert_same(read_annotations(Path("a.json"), text), general(monkeypatch, text))


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_equals_the_general_reader_on_real_annotations(monkeypatch, coco_mini, split):
    text = (coco_mini / "annotations" / f"instances_{split}.json").read_bytes()
    content = json.loads(text)
    assert is_plain(content["annotations"])
    for size in (1000, 2**18):
        monkeypatch.setattr(pieces, "SIZE", size)
        assert_same(read_annotations(Path("a.json"), text), general(monkeypatch, text))


@pytest.mark.parametrize(
    "change",
    [
        {"id": 5.0},
        {"id": 2**70},
        {"image_id": "7"},
        {"category_id": True},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, 1e16]},
        {"area": float("nan")},
        {"area": -1e15},
        {"iscrowd": 2},
        {"iscrowd": None},
        {"segmentation": "x"},
        {"segmentation": 7},
    ],
)
def test_everything_unusual_is_left_to_the_general_reader(change):
    records = one_object()["annotations"]
    assert is_plain(records)
    assert is_plain([])
    assert not is_plain([{**records[0], **change}])
    assert not is_plain([records[0], 7])

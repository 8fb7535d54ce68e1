"""Reading any annotation or result file ends in clean data or in one InputError that names it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.coco.segmentations import covered_pixels
from fpn_lightning.data.dataset import COCODataset
from fpn_lightning.data.training_images import training_images
from fpn_lightning.data.transforms import ResizeAndFlip, large_enough
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.__main__ import build_parser
from fpn_lightning.evaluation.scoring import score_files
from tests.data.builders import annotation, document

Place = tuple[str | int, ...]
File = tuple[bytes, Place]  # content, and where it was changed first
NUMBERS = [float("nan"), float("inf"), 1e308, -1e308, 10**400, 10**299, 2**63, 2**62, -0.0, 0, 1, -1, 7, 0.001]
NAMES = ["../x.png", "/etc/passwd", "a/../../x.png", "..", "C:x.png", "a\0.png", "\ud800.png", "日本.png", "deep"]
DIAGONAL: str = mask_api.encode(np.asfortranarray(np.eye(60, 80, dtype=np.uint8)))["counts"].decode()
COUNTS = [DIAGONAL, DIAGONAL[:-1], "", "o", "0", "PPPPPPPPPPPP0", "zz", "é", [0, 4800], [4801, -1], [2**32, 4800], 7]
JUNK = [None, True, False, "", "x", "7", [], {}, [[]], [None], [[[1]]], {"id": 1}]
ODD = st.one_of(st.sampled_from(JUNK), st.sampled_from(NAMES + NUMBERS), st.floats(), st.integers(-3, 100))
# Mostly near the image of 80 × 60 pixels, so that every relation of a box to it comes up.
NEAR = st.one_of(st.floats(-20, 100), st.floats(-0.01, 0.01), st.sampled_from([0, 60, 80, 4 / 3, -1e14, 1e14]))
POLYGONS = st.lists(st.lists(st.one_of(NEAR, NEAR, ODD), max_size=9), max_size=2)
SIZES = st.sampled_from([[60, 80], [80, 60], [60], [60.0, 80], ["60", 80], [2**40] * 2, 0])
FITTING = {
    "bbox": st.one_of(*(st.lists(value, min_size=3, max_size=5) for value in (NEAR, NEAR, ODD))),
    "segmentation": st.one_of(POLYGONS, st.fixed_dictionaries({"size": SIZES, "counts": st.sampled_from(COUNTS)})),
    "counts": st.sampled_from(COUNTS),
    "category_id": st.sampled_from([1, 3, 3.0, [3], 8]),
    "file_name": st.sampled_from(NAMES),
}


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where every value of a JSON document stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def change(draw: st.DrawFn, content: Any) -> Place:
    """Spoil one value, somewhere; returns where."""
    by_key: dict[str | int, list[Place]] = {}  # drawn by key first: most places are numbers of polygons
    for place in places(content):
        by_key.setdefault(place[-1] if isinstance(place[-1], str) else 0, []).append(place)
    place = draw(st.sampled_from(list(by_key.values())).flatmap(st.sampled_from))
    *outer, key = place
    parent = content
    for step in outer:
        parent = parent[step]
    action = draw(st.sampled_from(["replace"] * 4 + ["drop", "rename", "repeat"]))
    if action == "drop":
        del parent[key]
    elif action == "rename" and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    elif action == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(draw(st.one_of(FITTING.get(str(key), ODD), FITTING.get(str(key), ODD), ODD)))
    return place


def change_bytes(draw: st.DrawFn, text: bytes) -> bytes:
    """Now and then a fault that no JSON value can express."""
    depth = draw(st.integers(1, 3000))
    text = text.replace(b'"deep"', b"[" * depth + b"]" * depth)
    at = draw(st.integers(0, len(text)))
    faults = [
        text[:at],
        text[:at] + draw(st.binary(min_size=1, max_size=3)) + text[at:],
        b"\xef\xbb\xbf" + text,  # byte order mark
        text.decode().encode("utf-16"),
        text.replace(b'"id": ', b'"id": 3, "id": ', 1),
        text[:-1] + b', "annotations": []}',
    ]
    return draw(st.sampled_from([text] * 100 + faults))


@st.composite
def annotation_files(draw: st.DrawFn, *numbers: int) -> File:
    content = json.loads(json.dumps(document()))  # no value in two places
    content["annotations"].append(annotation(14, 9, 3, [5.5, 60, 30, 30.0], segmentation=[[0, 0, 9, 0, 9, 9]]))
    changed = [change(draw, content) for _ in range(draw(st.sampled_from(numbers)))]
    text = json.dumps(content).encode()
    return text if numbers == (1,) else change_bytes(draw, text), changed[0] if changed else ()


@st.composite
def files_of_boxes(draw: st.DrawFn) -> File:
    boxes = draw(st.lists(st.lists(NEAR, min_size=4, max_size=4), max_size=12))
    objects = [
        annotation(i, 7 + i % 2 * 2, 1 + i % 4 // 2 * 2, box, iscrowd=i % 5 == 4, segmentation=[[0, 0, 9, 0, 9, 9]])
        for i, box in enumerate(boxes, 1)
    ]
    return json.dumps(document(annotations=objects)).encode(), ()


@st.composite
def result_files(draw: st.DrawFn) -> bytes:
    entry = {"image_id": 7, "category_id": 3, "bbox": [10.0, 10, 10, 10], "score": 0.9}
    masks = [{"size": [60, 80], "counts": counts} for counts in (DIAGONAL, DIAGONAL, [1, 4799])]
    content = [{**entry, "segmentation": mask} for mask in masks]
    for _ in range(draw(st.integers(0, 3))):
        change(draw, content)
    return change_bytes(draw, json.dumps(content).encode())


def error_of_split(path: Path, content: bytes, min_box_size: float = 1.0) -> str | None:
    """Read all that training reads; the message if it is rejected."""
    path.write_bytes(content)
    transform = ResizeAndFlip(short_sides=(45,), max_side=70, min_box_size=min_box_size)
    message = None
    try:
        index = COCOIndex.open(path)
        message = error_of_masks(index)
        places, counts = training_images(index, transform)
    except InputError as error:
        return message or str(error)
    for place in range(len(index)):
        assert Path("/split").joinpath(index.file_name(place)).resolve().is_relative_to("/split")
    assert ((index.objects.labels >= 0) & (index.objects.labels < len(index.categories))).all()
    if index.sizes.max() < 5000:  # else no such image could be read
        dropped = sum(counts.values()) - counts["images_without_objects"]
        kept = count_targets(index, transform, places)
        assert dropped + kept == len(index.object_places)
    return message


def error_of_masks(index: COCOIndex) -> str | None:
    for place, (height, width) in enumerate(index.sizes.tolist()):
        try:
            masks = index.masks_of(place)
        except InputError as error:
            return str(error)
        for mask in masks if height * width < 10**6 else []:
            assert mask_api.decode(mask).shape == (height, width)
    return None


def count_targets(index: COCOIndex, transform: ResizeAndFlip, places: np.ndarray) -> int:
    """Number of objects trained on, each of them usable and with its own label."""
    count = 0
    for training in (False, True):
        dataset = COCODataset(index, Path("nowhere"), transform, places, training)
        for position in range(len(places)):
            with pytest.MonkeyPatch.context() as patch:
                blank = lambda path, size, image_id: np.zeros((*size, 3), dtype=np.uint8)  # noqa: E731
                patch.setattr("fpn_lightning.data.dataset.read_image", blank)
                sample = dataset[position, 0]
            targets, (height, width) = sample.targets, sample.geometry.size
            boxes = targets.boxes.numpy()
            assert ((boxes >= 0) & (boxes <= [width, height, width, height])).all()  # also False for NaN
            assert (boxes[:, 2:] - boxes[:, :2] >= max(transform.min_box_size - 1e-3, 1e-9)).all()
            annotated = sample.ground_truth
            own = np.clip(sample.geometry.to_network(annotated.boxes_orig), 0, [width, height, width, height])
            usable = ~annotated.is_crowd & large_enough(own[:, 2:] - own[:, :2], transform.min_box_size)
            assert (targets.labels.numpy() == annotated.labels[usable]).all()
            np.testing.assert_array_equal(boxes, own[usable].astype(np.float32))
            count += len(boxes) * training
    return count


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", NAMES[:7])
def test_no_image_is_read_from_outside_the_folder(folder: Path, name: str) -> None:
    content = document(images=[{"id": 7, "file_name": name, "height": 60, "width": 80}])
    message = error_of_split(folder / "names.json", json.dumps(content).encode())
    assert "names.json: image 7: 'file_name' is" in str(message)


def test_compressed_counts_are_read_as_pycocotools_writes_them() -> None:
    random = np.random.default_rng(0)
    masks = [random.random(random.integers(1, 300, 2)) < 10 ** -random.uniform(0, 6) for _ in range(200)]
    texts = [mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode() for mask in masks]
    assert covered_pixels(texts).tolist() == [mask.size for mask in masks]
    assert covered_pixels([texts[0], "0O0", "3", texts[1]]).tolist() == [masks[0].size, -1, 3, masks[1].size]


def fuzzed(check: Callable[..., None], few: int, many: int, **strategies: Any) -> tuple[Any, Any]:
    """The same property as a quick test and as a slow one."""
    quick, slow = (settings(max_examples=n)(given(**strategies)(check)) for n in (few, many))
    return quick, pytest.mark.slow(slow)


def data_is_clean_or_rejected(folder: Path, file: File) -> None:
    message = error_of_split(folder / "instances.json", file[0])
    assert message is None or "instances.json" in message


def one_fault_is_named_by_id(folder: Path, file: File) -> None:
    path, (content, place) = folder / "instances.json", file
    ids = {"images": (9, 7), "annotations": (12, 11, 13, 14)}.get(str(place[0]))
    if (message := error_of_split(path, content)) and ids and len(place) > 2 and place[2] != "id":
        assert f"{path}: {place[0][:-1]} {ids[place[1]]}" in message or f"(image {ids[place[1]]})" in message


def boxes_are_usable(folder: Path, file: File, least: float) -> None:
    message = error_of_split(folder / "instances.json", file[0], least)
    assert message is None or "can be trained on" in message or "no object to train on" in message


def clean_scores(folder: Path, file: File, results: bytes) -> None:
    paths = folder / "scored.json", folder / "results.json"
    for path, content in zip(paths, (file[0], results), strict=True):
        path.write_bytes(content)
    for metric in ("proposals", "bbox", "segm"):
        arguments = build_parser().parse_args([*map(str, paths), "--metric", metric])
        try:
            values, _ = score_files(arguments)
        except InputError as error:
            message = str(error)
        else:
            message = str(paths)
            assert all(value is None or 0 <= value <= 1 for value in values.values())
        assert any(str(path) in message for path in paths)


test_data, test_data_slow = fuzzed(data_is_clean_or_rejected, 250, 2000, file=annotation_files(0, 1, 1, 1, 2, 3, 4))
test_one_fault, test_one_fault_slow = fuzzed(one_fault_is_named_by_id, 150, 1000, file=annotation_files(1))
test_boxes, test_boxes_slow = fuzzed(boxes_are_usable, 60, 1000, file=files_of_boxes(), least=st.floats(0, 8))
test_scores, test_scores_slow = fuzzed(clean_scores, 250, 1500, file=annotation_files(0, 1), results=result_files())

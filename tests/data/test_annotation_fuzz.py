"""Whatever an annotation or result file holds, reading it ends in clean data or in one InputError that names it."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from fpn_lightning.data.coco import COCOIndex
from fpn_lightning.data.dataset import COCODataset
from fpn_lightning.data.training_rows import training_rows
from fpn_lightning.data.transforms import ResizeAndFlip
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.__main__ import score_proposals
from fpn_lightning.evaluation.annotations import read_annotations
from fpn_lightning.evaluation.average_precision import average_precision
from fpn_lightning.evaluation.results import read_proposals, read_results

from .builders import annotation, document

TRANSFORM = ResizeAndFlip(short_sides=(45,), max_side=70)
NAN, INFINITY = float("nan"), float("inf")
NUMBERS = [NAN, INFINITY, -INFINITY, 1e308, -1e308, 10**400, 10**300, 2**63, 2**62, 1e15, -0.0, 0, 1, -1, 7, 0.001]
COUNTS = ["", "o", "0", "PPPPPPPPPPPP0", "zz", "é", "n", "01:00000000000000000", mask_api.encode(
    np.asfortranarray(np.eye(60, 80, dtype=np.uint8)))["counts"].decode()]  # fmt: skip
ODD = st.one_of(
    st.sampled_from([None, True, False, "", "x", "7", [], {}, [[]], [None], [[[1]]], {"id": 1}]),
    st.sampled_from(["../x.png", "/etc/passwd", "a/../../x.png", "a\0.png", "\ud800.png", "ü/日本.png", "..", "x" * 5000]),
    st.sampled_from(NUMBERS),
    st.floats(),
    st.integers(-3, 100),
)
# Mostly near the image of 80 × 60 pixels, so that every relation of a box to it comes up.
COORDINATE = st.one_of(st.floats(-20, 100), st.floats(-0.01, 0.01), st.sampled_from(NUMBERS))
BOX = st.one_of(
    st.lists(COORDINATE, min_size=4, max_size=4), st.lists(COORDINATE, max_size=6), st.lists(ODD, min_size=4, max_size=4)
)
POLYGONS = st.lists(st.lists(st.one_of(st.floats(-20, 100), COORDINATE, ODD), max_size=9), max_size=2)
RLE = st.fixed_dictionaries(
    {
        "size": st.one_of(st.just([60, 80]), st.sampled_from([[80, 60], [60], [60, 80, 1], ["60", 80], [2**40] * 2, 0])),
        "counts": st.one_of(
            st.sampled_from(COUNTS), st.sampled_from([[0, 100, 4700], [4801, -1], [2**32, 4800], [], [4800.0], 4800, None])
        ),
    }
)
FITTING = {"bbox": BOX, "segmentation": st.one_of(POLYGONS, RLE), "size": ODD, "counts": ODD}
Path_ = tuple[str | int, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutate(draw: st.DrawFn, content: Any) -> Path_:
    """Change one value somewhere; returns where."""
    # Drawn by section and record first: an even choice among all values would mostly hit polygons.
    every = list(places(content))
    if not every:
        return ()
    path = draw(st.sampled_from(every))
    if len(path) > 3 and draw(st.booleans()):
        path = path[:3]
    *outer, key = path
    parent = content
    for step in outer:
        parent = parent[step]
    action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "rename", "repeat"]))
    if action == "drop":
        del parent[key]
    elif action == "rename" and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    elif action == "repeat" and isinstance(parent, list):
        parent.append(parent[int(key)])
    else:
        # A copy: what was drawn may be changed by the next mutation.
        parent[key] = copy.deepcopy(draw(st.one_of(FITTING.get(str(key), ODD), ODD)))
    return path


def with_bytes_changed(draw: st.DrawFn, text: bytes) -> bytes:
    """Now and then a fault that no JSON value can express."""
    kind = draw(st.integers(0, 20))
    at = draw(st.integers(0, len(text)))
    if kind == 0:
        return text[:at]
    if kind == 1:
        return b"\xef\xbb\xbf" + text
    if kind == 2:
        return text[:at] + draw(st.binary(min_size=1, max_size=3)) + text[at:]
    if kind == 3:
        return text.decode().encode("utf-16")
    if kind == 4:
        return text.replace(b'"id": ', b'"id": 3, "id": ', 1)
    if kind == 5:
        return text[:-1] + b', "annotations": []}'
    return text


@st.composite
def annotation_files(draw: st.DrawFn, least: int = 0, most: int = 4, change_bytes: bool = True) -> tuple[bytes, list[Path_]]:
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    content = json.loads(json.dumps(document()))  # no value in two places
    content["annotations"].append(annotation(14, 9, 3, [5.5, 60, 30, 30.0], segmentation=square, area=600))
    changed = [mutate(draw, content) for _ in range(draw(st.integers(least, most)))]
    text = json.dumps(content).encode()
    return with_bytes_changed(draw, text) if change_bytes else text, changed


def check_split(path: Path) -> str | None:
    """Read everything training reads; returns the message where the file is refused."""
    try:
        index = COCOIndex.open(path)
    except InputError as error:
        return str(error)
    num_classes = len(index.categories)
    assert (index.sizes > 0).all()
    assert np.isfinite(index.objects.boxes_xywh).all()
    assert np.isfinite(index.objects.areas).all()
    assert (index.objects.annotation_ids > 0).all()
    assert ((index.objects.labels >= 0) & (index.objects.labels < num_classes)).all()
    refused = None
    for row in range(len(index)):
        name = PurePath(index.file_name(row))
        assert not name.is_absolute()
        assert ".." not in name.parts
        try:
            segmentations = index.segmentations_of(row)
        except InputError as error:
            refused = str(error)
            assert any(f"annotation {i} " in refused for i in index.objects_of(row).annotation_ids)
        else:
            height, width = index.sizes[row].tolist()
            for segmentation in segmentations if height * width < 10**6 else []:
                rles = mask_api.frPyObjects(segmentation, height, width) if has_parts(segmentation) else segmentation
                assert mask_api.decode(rles).shape[:2] == (height, width)
    try:
        rows, counts = training_rows(index, TRANSFORM)
    except InputError as error:
        return str(error)
    dropped = sum(count for reason, count in counts.items() if reason != "images_without_objects")
    if index.sizes.max() > 5000:  # no such image could be read
        return refused
    kept = check_targets(index, rows)
    assert dropped + kept + int(index.objects.is_crowd.sum()) == len(index.object_rows)
    return refused


def has_parts(segmentation: Any) -> bool:
    return isinstance(segmentation, list) or isinstance(segmentation["counts"], list)


def check_targets(index: COCOIndex, rows: np.ndarray) -> int:
    """Number of training targets, all of them usable, over the images of ``rows``."""
    kept = 0
    dataset = COCODataset(index, Path("nowhere"), TRANSFORM, rows, training=True)
    for place, row in enumerate(rows.tolist()):
        with pytest.MonkeyPatch.context() as patch:
            # The pixels do not matter here; as large as declared, which the reader of images makes sure of.
            patch.setattr("fpn_lightning.data.dataset.read_image", blank_image)
            sample = dataset[place, 0]
        height, width = sample.geometry.size
        targets = sample.targets
        boxes = targets.boxes.numpy()
        assert np.isfinite(boxes).all()
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= TRANSFORM.min_box_size - 1e-3).all()
        assert (targets.labels == targets.labels_orig[targets.indices]).all()
        assert not targets.is_crowd[targets.indices].any()
        assert targets.annotation_ids.tolist() == index.objects_of(row).annotation_ids.tolist()
        kept += len(boxes)
    return kept


def blank_image(path: Path, *, size: tuple[int, int], image_id: int) -> np.ndarray:
    return np.zeros((*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def fuzzed(check: Callable[..., None], few: int, many: int, **strategies: Any) -> tuple[Any, Any]:
    """The same property as a quick test and as a slow one."""
    quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    quick = settings(max_examples=few, **quiet)(given(**strategies)(check))
    slow = settings(max_examples=many, **quiet)(given(**strategies)(check))
    return quick, pytest.mark.slow(slow)


def data_is_clean_or_refused(folder: Path, file: tuple[bytes, list[Path_]]) -> None:
    path = folder / "instances.json"
    path.write_bytes(file[0])
    message = check_split(path)
    assert message is None or str(path) in message


def one_fault_is_named_by_id(folder: Path, file: tuple[bytes, list[Path_]]) -> None:
    path = folder / "instances.json"
    path.write_bytes(file[0])
    message = check_split(path)
    (place,) = file[1]
    if message is None or len(place) < 3 or place[2] == "id":
        return
    ids = {"images": (9, 7), "annotations": (12, 11, 13, 14)}.get(place[0])
    if ids is not None and "not one object" not in message:
        assert f"{place[0][:-1]} {ids[place[1]]}" in message


def evaluation_is_clean_or_refused(folder: Path, file: tuple[bytes, list[Path_]], results: bytes) -> None:
    paths = folder / "scored.json", folder / "results.json"
    for path, content in zip(paths, (file[0], results), strict=True):
        path.write_bytes(content)
    for metric in ("proposals", "bbox", "segm"):
        try:
            annotations = read_annotations(paths[0], with_masks=metric == "segm")
        except InputError as error:
            assert str(paths[0]) in str(error)
            continue
        try:
            if metric == "proposals":
                proposals = read_proposals(paths[1], {image["id"] for image in annotations["images"]})
                values = score_proposals(annotations, proposals, (10, 100), (32**2, 96**2))
            else:
                values = average_precision(annotations, read_results(paths[1], annotations, metric), metric)
        except InputError as error:
            assert str(paths[1]) in str(error)
            continue
        assert all(value is None or 0 <= value <= 1 for value in values.values())


@st.composite
def result_files(draw: st.DrawFn) -> bytes:
    rle = {"size": [60, 80], "counts": COUNTS[-1]}
    content = [
        {"image_id": 7, "category_id": 3, "bbox": [10.0, 10, 10, 10], "score": 0.9, "segmentation": rle},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 29.5], "score": 0.8, "segmentation": dict(rle)},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.8, "segmentation": rle | {"counts": [1, 4799]}},
    ]
    for _ in range(draw(st.integers(0, 3))):
        mutate(draw, content)
    return with_bytes_changed(draw, json.dumps(content).encode())


test_data, test_data_many = fuzzed(data_is_clean_or_refused, 60, 2000, file=annotation_files())
test_one_fault, test_one_fault_many = fuzzed(
    one_fault_is_named_by_id, 60, 1500, file=annotation_files(1, 1, change_bytes=False)
)
test_evaluation, test_evaluation_many = fuzzed(
    evaluation_is_clean_or_refused, 60, 1500, file=annotation_files(0, 1), results=result_files()
)

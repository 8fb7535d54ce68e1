from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.average_precision import AveragePrecision

from .reference import (
    CATEGORY_IDS,
    assert_same_cells,
    detected,
    pycocotools_summary,
    random_detections,
    values_of_two_processes,
    write_coco_files,
)

Image = tuple[np.ndarray, ...]
BACKENDS = ("faster-coco-eval", "pycocotools")
BOX = np.array([[10, 20, 30, 40.0]])
NO_BOX, NOTHING = np.zeros((0, 4)), np.zeros(0)


def _filled(images: dict[int, Image], **settings) -> AveragePrecision:
    metric = AveragePrecision(**settings)
    for image_id, columns in images.items():
        metric.update(*detected(image_id, *columns))
    return metric


def _by_category(metric: AveragePrecision) -> dict[int, float | None]:
    names = dict(enumerate(map(str, CATEGORY_IDS)))
    return {int(name): value for name, value in metric.per_class(names).items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools_on_files(tmp_path, seed, backend):
    images = random_detections(np.random.default_rng(seed), 12)
    metric = _filled(images, backend=backend)
    expected, expected_by_class = pycocotools_summary(*write_coco_files(images, tmp_path))
    assert expected["AP"] > 0
    values = metric.compute()
    assert_same_cells({name: values[name] for name in expected}, expected)
    assert_same_cells(_by_category(metric), expected_by_class)
    assert expected_by_class[91] is None
    assert int(metric.num_images) == 12


def test_order_of_images_moves_no_bit():
    images = random_detections(np.random.default_rng(1), 15)
    backwards = dict(reversed(images.items()))
    assert _filled(images).compute() == _filled(backwards).compute()


def test_a_half_found_class_by_hand():
    """One of two cups at its place: precision 1 up to recall 0.5, which is 51 of COCO's 101 recall levels."""
    metric = AveragePrecision(area_thresholds=(85, 769), limits=(1,))
    metric.update(*detected(7, BOX, [0.9], [4], np.concatenate([BOX, BOX + 50]), [100, 1000], [False, False], [4, 4]))
    metric.update(*detected(8, NO_BOX, NOTHING, NOTHING, BOX, [100], [False], [2]))
    values = metric.compute()
    assert values["AP"] == values["AP50"] == values["AP75"] == pytest.approx(51 / 101 / 2)
    # Both objects of 100 px² are medium: the cup is found, the cat is not.
    assert (values["APs"], values["APm"], values["APl"]) == (None, 0.5, 0)
    assert (values["AR1"], values["AR1_m"]) == (0.25, 0.5)
    names = {2: "cat", 3: "dog", 4: "cup", 5: "ant"}
    by_class = {"cup": pytest.approx(51 / 101), "cat": 0, "ant": None, "dog": None}
    assert list(metric.per_class(names).items()) == list(by_class.items())
    assert metric.per_class({4: "thing", 2: "thing"}) == {"thing (4)": by_class["cup"], "thing (2)": 0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_is_zero_and_nothing_to_find_is_none(backend):
    metric = AveragePrecision(backend=backend)
    metric.update(*detected(1, NO_BOX, NOTHING, NOTHING, BOX, [1200], [0], [0]))
    values = metric.compute()
    assert {name for name, value in values.items() if value is None} == {
        *("APs", "APl", "AR1_s", "AR1_l", "AR10_s", "AR10_l", "AR100_s", "AR100_l")
    }
    assert {value for value in values.values() if value is not None} == {0.0}
    metric.reset()
    metric.update(*detected(1, BOX, [1], [0], NO_BOX, NOTHING, NOTHING, NOTHING))
    assert set(metric.compute().values()) == {None}
    metric.reset()
    metric.update(*detected(1, *(NO_BOX, NOTHING, NOTHING), NO_BOX, NOTHING, NOTHING, NOTHING))
    assert set(metric.compute().values()) == {None}


def test_tensors_of_any_dtype_are_taken():
    metric = AveragePrecision()
    scores = torch.tensor([0.5], dtype=torch.bfloat16)
    metric.update(*detected(9, torch.tensor(BOX).float(), scores, [3], BOX, [1200.0], [False], [3]))
    assert metric.compute()["AP"] == 1
    assert (metric.detections[0].dtype, metric.detections[0].shape) == (torch.float64, (1, 6))


def test_an_image_counts_once():
    images = random_detections(np.random.default_rng(2), 6)
    metric = _filled(images)
    expected = metric.compute()
    first, *_ = images
    metric.update(*detected(first, *images[first]))
    assert metric.compute() == expected
    assert int(metric.num_images) == 6
    boxes, *others = images[first]
    metric.update(*detected(first, boxes + 1, *others))
    with pytest.raises(InputError, match=f"image {first} was evaluated twice, with different results"):
        metric.compute()
    metric.reset()
    assert int(metric.num_images) == 0
    for image_id, columns in images.items():
        metric.update(*detected(image_id, *columns))
    assert metric.compute() == expected


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled):
    images = random_detections(np.random.default_rng(5), 3)
    metric = _filled(images)
    first, *_ = images
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        metric.compute()
        assert gc.isenabled() == enabled
        metric.update(*detected(first, BOX, [1], [0], NO_BOX, NOTHING, NOTHING, NOTHING))
        with pytest.raises(InputError, match="evaluated twice"):
            metric.compute()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, np.array([[0, 0, np.nan, 1]]), "image 5: boxes_xywh contains .* row 0"),
        (1, [np.inf], "image 5: scores contains .* row 0"),
        (3, np.zeros((1, 5)), r"image 5: the objects' boxes_xywh has shape \(1, 5\)"),
        (2, [1, 2], "image 5: lists differ in length: 1 boxes_xywh, 1 scores, 2 labels"),
        (5, [], "image 5: the objects' lists differ in length: 1 boxes_xywh, 1 areas, 0 is_crowd"),
        (6, [0.5], "image 5: the objects' labels are .*whole numbers"),
    ],
)
def test_bad_values_are_named(column, value, message):
    columns = [BOX, [0.5], [1], BOX, [9], [0], [1]]
    columns[column] = value
    with pytest.raises(InputError, match=message):
        AveragePrecision().update(*detected(5, *columns))


def test_detections_of_another_image_are_rejected():
    found, _ = detected(5, BOX, [0.5], [1], BOX, [9], [0], [1])
    _, annotated = detected(6, BOX, [0.5], [1], BOX, [9], [0], [1])
    with pytest.raises(InputError, match="detections belong to image 5, but the objects to image 6"):
        AveragePrecision().update(found, annotated)


@pytest.mark.parametrize("settings", [{"limits": (0,)}, {"area_thresholds": (2, 1)}])
def test_bad_settings_are_named(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        AveragePrecision(**settings)


def _all_values(metric: AveragePrecision) -> list[dict[str, float | None]]:
    return [metric.compute(), {str(key): value for key, value in _by_category(metric).items()}]


@pytest.mark.parametrize("split", [4, 0])
def test_two_processes_equal_one(tmp_path, split):
    images = random_detections(np.random.default_rng(3), 9)
    expected = _all_values(_filled(images))
    rows = [detected(image_id, *columns) for image_id, columns in images.items()]
    # The second process has the first image again, as padding to equal shares would have it; with 0, the first process
    # has nothing at all.
    shares = [rows[:split], rows[split:] + rows[:1]]
    assert values_of_two_processes(AveragePrecision, _all_values, shares, tmp_path) == [expected, expected]


def test_an_error_reaches_every_process(tmp_path):
    (first, columns), other = random_detections(np.random.default_rng(4), 2).items()
    shifted = detected(first, columns[0] + 1, *columns[1:])
    shares = [[detected(first, *columns)], [detected(other[0], *other[1]), shifted]]
    values = values_of_two_processes(AveragePrecision, _all_values, shares, tmp_path)
    assert values[0] == values[1]
    assert f"image {first} was evaluated twice" in values[0]


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not report resident memory")
def test_three_passes_take_the_memory_of_one():
    rng = np.random.default_rng(0)
    metric = AveragePrecision()
    resident = []
    for _ in range(3):
        for image_id in range(150):
            boxes = rng.uniform(1, 200, (100, 4))
            annotated = boxes[:7], boxes[:7, 2] * boxes[:7, 3], np.zeros(7), rng.integers(0, 8, 7)
            metric.update(*detected(image_id, boxes, rng.random(100), rng.integers(0, 8, 100), *annotated))
        metric.compute()
        metric.reset()
        resident.append(_resident_mib())
    # The records of one pass are about 13 MiB.
    assert resident[2] - resident[0] < 6

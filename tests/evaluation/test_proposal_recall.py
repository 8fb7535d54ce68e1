from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.arrays import FileResults
from fpn_lightning.evaluation.recall_metrics import ProposalRecall
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.metric_names import AREA_SUFFIXES, recall_key
from fpn_lightning.structures import ProposalsOrig

from .reference import (
    Scene,
    coco_dataset,
    coco_results,
    pycocotools_recall,
    random_scene,
    values_of_two_processes,
)


def _ours(scenes: list[Scene], limits: tuple[int, ...], thresholds: tuple[float, float] = (32**2, 96**2)) -> np.ndarray:
    metric = ProposalRecall(limits, thresholds)
    for scene in scenes:
        metric.update(*scene.given)
    values = metric.compute()
    cells = [[values[recall_key(limit, suffix)] for limit in limits] for suffix in AREA_SUFFIXES]
    return np.array([[-1 if cell is None else cell for cell in row] for row in cells])


def one_class(boxes, scores, *annotated) -> tuple[FileResults, GroundTruth]:
    """What ``update`` takes, of columns; every object has label 0."""
    columns = [np.asarray(column, dtype=float) for column in (boxes, scores, *annotated)]
    return FileResults(*columns[:2]), GroundTruth(4, *columns[2:], np.zeros(len(annotated[0])))


def test_one_object_by_hand():
    # IoU 80/100 reaches 0.50 ... 0.80 in steps of 0.05: 7 of 10 thresholds.
    metric = ProposalRecall(limits=(1, 1000))
    metric.update(*one_class([[0, 0, 10, 8.0]], [0.3], [[0, 0, 10, 10.0]], [100.0], [False]))
    values = metric.compute()
    assert values["AR1"] == values["AR1k"] == values["AR1_s"] == pytest.approx(0.7)
    assert values["AR1_m"] is None
    assert values["AR1k_l"] is None


def test_labels_bring_objects_into_cocos_order():
    # The first detection has IoU 2/3 with both objects, the second fits only the object that starts at 4.
    gt_boxes = np.array([[4, 0, 10, 10], [0, 0, 10, 10.0]])
    boxes = np.array([[2, 0, 10, 10], [4, 0, 10, 10.0]])
    scene = Scene(boxes, np.array([0.9, 0.8]), gt_boxes, np.full(2, 100.0), np.zeros(2, bool), np.array([1, 0]))
    # Class 1 comes last and is taken first: one object at every threshold.
    assert _ours([scene], (10,))[0, 0] == pytest.approx(0.5)
    assert pycocotools_recall(coco_dataset([scene]), coco_results([scene]), (10,))[0, 0] == pytest.approx(0.5)
    metric = ProposalRecall((10,))
    scene.gt_labels[:] = 0
    metric.update(*scene.given)
    # Of one class they stay in the order given, and both are found at 0.5 ... 0.65, one above.
    assert metric.compute()["AR10"] == pytest.approx((4 * 1 + 6 * 0.5) / 10)


def test_image_without_proposals_stays_in_the_denominator():
    box, area, no_crowd = np.array([[0, 0, 50, 50.0]]), np.array([2500.0]), np.array([False])
    metric = ProposalRecall()
    metric.update(*one_class(box, [1.0], box, area, no_crowd))
    metric.update(*one_class(np.zeros((0, 4)), [], box, area, no_crowd))
    metric.update(*one_class([], [], [], [], []))
    assert metric.compute()["AR100"] == 0.5
    assert int(metric.num_images) == 3


@pytest.mark.parametrize("seed", range(40))
def test_equals_pycocotools_on_awkward_scenes(seed):
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(15)] + [random_scene(np.random.default_rng(7))]
    limits = ((1, 10, 30), (1, 3), (7,), (5, 20, 100, 1000))[seed % 4]
    thresholds = ((32**2, 96**2), (10.0, 2000.0))[seed % 2]
    expected = pycocotools_recall(coco_dataset(scenes), coco_results(scenes), limits, thresholds)
    np.testing.assert_allclose(_ours(scenes, limits, thresholds), expected, rtol=0, atol=1e-12)


def test_equals_pycocotools_beyond_a_thousand_boxes():
    rng = np.random.default_rng(3)
    gt_boxes = np.concatenate((rng.random((12, 2)) * 300, rng.random((12, 2)) * 150 + 2), axis=1)
    boxes = np.abs(gt_boxes[rng.integers(0, 12, 2500)] + rng.normal(0, 30, (2500, 4)))
    areas = gt_boxes[:, 2] * gt_boxes[:, 3] * 0.7
    scene = Scene(boxes, rng.random(2500).round(2), gt_boxes, areas, rng.random(12) < 0.2, rng.integers(0, 5, 12))
    limits = (10, 100, 1000, 2000)
    expected = pycocotools_recall(coco_dataset([scene]), coco_results([scene]), limits)
    np.testing.assert_allclose(_ours([scene], limits), expected, rtol=0, atol=1e-12)
    assert 0 < expected[0, 0] < expected[0, 2]


def test_order_of_detections_and_images_does_not_matter():
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng) for _ in range(10)]
    for scene in scenes:
        scene.scores = rng.permutation(len(scene.scores)).astype(float)
    shuffled = []
    for scene in reversed(scenes):
        order = rng.permutation(len(scene.scores))
        shuffled.append(replace(scene, boxes=scene.boxes[order], scores=scene.scores[order]))
    assert np.array_equal(_ours(scenes, (3, 30)), _ours(shuffled, (3, 30)))


def test_states_are_sums_of_fixed_size():
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(12)]
    whole, first, second = ProposalRecall(), ProposalRecall(), ProposalRecall()
    for i, scene in enumerate(scenes):
        whole.update(*scene.given)
        (first if i % 3 else second).update(*scene.given)
    for name, reduction in whole._reductions.items():
        total = getattr(whole, name)
        assert torch.equal(reduction(torch.stack((getattr(first, name), getattr(second, name)))), total)
        assert total.dtype == torch.int64
    assert whole.matched.shape == (10, 4, 4)
    whole.reset()
    assert int(whole.gt_counts.sum()) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limits": ()}, "limits"),
        ({"limits": (0, 10)}, "limits"),
        ({"limits": (10, 10)}, "limits"),
        ({"area_thresholds": (9216, 1024)}, "area_thresholds"),
        ({"area_thresholds": (1, 2, 3)}, "area_thresholds"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        ProposalRecall(**arguments)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, np.array([[0, 0, np.nan, 1]]), "boxes_xywh .* row 0"),
        (1, np.array([np.inf]), "image 4: objectness .* row 0"),
        (0, np.zeros((1, 5)), r"boxes_xywh has shape \(1, 5\)"),
        (1, np.zeros(2), "image 4: the proposals have 1 boxes_xywh and 2 objectness"),
        (3, np.zeros(0), "image 4: the objects' lists differ in length: 0 areas"),
        (5, np.zeros(3), "3 labels"),
    ],
)
def test_bad_values_are_named(column, value, message):
    box = np.array([[0, 0, 5, 5.0]])
    columns = [box, np.ones(1), box, np.ones(1), np.zeros(1, bool), np.zeros(1)]
    columns[column] = value
    with pytest.raises(InputError, match=message):
        ProposalRecall().update(FileResults(*columns[:2]), GroundTruth(4, *columns[2:]))


def test_proposals_of_a_model_are_taken_as_they_are():
    boxes = torch.tensor([[10, 20, 40, 60.0], [0, 0, 9, 9]], dtype=torch.float64)
    found = ProposalsOrig(4, boxes, torch.tensor([2.0, -1.0]), torch.tensor([3, 2]))
    metric = ProposalRecall()
    metric.update(found, GroundTruth(4, np.array([[10.0, 20, 30, 40]]), np.array([1200.0]), np.zeros(1), np.zeros(1)))
    assert metric.compute()["AR10"] == 1


def test_two_processes_equal_one(tmp_path):
    rng = np.random.default_rng(2)
    scenes = [random_scene(rng).given for _ in range(9)]
    whole = ProposalRecall()
    for given in scenes:
        whole.update(*given)
    shares = [scenes[::2], scenes[1::2]]
    found = values_of_two_processes(ProposalRecall, lambda metric: metric.compute(), shares, tmp_path)
    assert found == 2 * [whole.compute()]

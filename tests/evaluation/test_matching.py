from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_api

from fpn_lightning.evaluation.matching import area_ranges, box_iou_xywh, count_matches, ignored_objects


def test_greedy_order_by_hand():
    # The first detection prefers object 0 (0.9 over 0.6); the second, which only fits object 0, comes too late.
    ious = np.array([[0.9, 0.6], [0.8, 0.1]])
    matched = count_matches(ious, np.zeros((1, 2), bool), (1, 2))[:, 0]
    assert matched[:, 0].tolist() == [1] * 9 + [0]
    assert matched[:, 1].tolist() == [1] * 9 + [0]
    # With the scores swapped the first takes 0 up to 0.8, and the other is left with object 1 up to 0.6.
    matched = count_matches(ious[::-1], np.zeros((1, 2), bool), (1, 2))[:, 0]
    assert matched[:, 1].tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 1, 0]


def test_later_object_wins_equal_ious():
    # Object 1 is taken first, so a second detection that only overlaps object 1 finds nothing.
    ious = np.array([[0.7, 0.7], [0.0, 0.7]])
    assert count_matches(ious, np.zeros((1, 2), bool), (2,))[0, 0, 0] == 1
    assert count_matches(ious[:, ::-1], np.zeros((1, 2), bool), (2,))[0, 0, 0] == 2


def test_area_on_a_threshold_belongs_to_both_sizes():
    ignored = ignored_objects(np.array([1024.0, 1024.5, 9216.0]), np.zeros(3, bool), area_ranges((1024, 9216)))
    assert (~ignored).tolist() == [[True] * 3, [True, False, False], [True] * 3, [False, False, True]]


def test_iou_is_bit_equal_to_the_mask_api():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scale = rng.choice([1e-3, 1, 1e3])
        boxes, gt_boxes = rng.random((40, 4)) * scale, rng.random((9, 4)) * scale
        boxes[:3, 2:] = 0
        gt_boxes[0, 2] = 0
        boxes[5] = gt_boxes[1]
        boxes[6] = gt_boxes[0]
        expected = mask_api.iou(boxes, gt_boxes, [0] * 9)
        assert np.array_equal(box_iou_xywh(boxes, gt_boxes), expected)

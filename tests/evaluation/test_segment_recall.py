"""Recall of masks: by hand, against pycocotools, and over processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from fpn_lightning.data.coco.segmentations import compressed_rle
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.recall import mask_iou
from fpn_lightning.evaluation.recall_metrics import SegmentRecall
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.metric_names import AREA_SUFFIXES, recall_key

from .reference import pycocotools_recall, random_masks


def rectangle(x, y, width, height, size=(40, 60)):
    bitmap = np.zeros(size, dtype=np.uint8, order="F")
    bitmap[y : y + height, x : x + width] = 1
    coded = mask_api.encode(bitmap)
    return {"size": list(size), "counts": coded["counts"].decode()}


def given(masks, scores, gt_masks, areas, is_crowd, labels=None) -> tuple[MaskProposalsOrig, GroundTruth]:
    """What ``update`` takes, of columns; without labels all objects are of one class."""
    labels = np.zeros(len(gt_masks)) if labels is None else np.asarray(labels)
    found = MaskProposalsOrig(4, masks, torch.tensor(scores), torch.full((len(masks),), 2))
    boxes = np.zeros((len(gt_masks), 4))
    return found, GroundTruth(4, boxes, np.asarray(areas), np.asarray(is_crowd), labels, masks=gt_masks)


def ours(dataset: dict[str, Any], results: list[dict[str, Any]], limits, thresholds=(32**2, 96**2)) -> np.ndarray:
    """What the metric says of COCO records, image by image: ``(area range, limit)``, -1 without ground truth."""
    metric = SegmentRecall(limits, thresholds)
    for image in dataset["images"]:
        size = image["height"], image["width"]
        objects = [item for item in dataset["annotations"] if item["image_id"] == image["id"]]
        found = [item for item in results if item["image_id"] == image["id"]]
        columns = (
            [item["segmentation"] for item in found],
            [item["score"] for item in found],
            [compressed_rle(item["segmentation"], *size) for item in objects],
            [item["area"] for item in objects],
            [item["iscrowd"] for item in objects],
            [item["category_id"] for item in objects],
        )
        metric.update(*given(*columns))
    values = metric.compute()
    cells = [[values["segm_" + recall_key(limit, suffix)] for limit in limits] for suffix in AREA_SUFFIXES]
    return np.array([[-1 if cell is None else cell for cell in row] for row in cells])


def test_one_object_by_hand():
    # 8 of 10 columns are found: IoU 0.8 reaches 0.50 ... 0.80, 7 of 10 thresholds. Its area makes it small.
    metric = SegmentRecall(limits=(1, 1000))
    metric.update(*given([rectangle(0, 0, 8, 10)], [0.3], [rectangle(0, 0, 10, 10)], [100.0], [False]))
    metric.update(*given([], [], [rectangle(0, 0, 10, 10)], [5000.0], [False]))  # none found, medium
    metric.update(*given([rectangle(0, 0, 10, 10)], [1.0], [], [], []))
    values = metric.compute()
    assert values["segm_AR1k"] == values["segm_AR1"] == pytest.approx(0.35)
    assert values["segm_AR1k_s"] == pytest.approx(0.7)
    assert values["segm_AR1k_m"] == 0
    assert values["segm_AR1k_l"] is None
    assert int(metric.num_images) == 3


def test_masks_and_not_boxes_are_compared():
    # An L and the square around it have one bounding box; the L is 3 of 4 quarters.
    square, corner = rectangle(0, 0, 20, 20), rectangle(10, 0, 10, 10)
    bitmap = mask_api.decode(square) - mask_api.decode(corner)
    coded = mask_api.encode(np.asfortranarray(bitmap))
    ell = {"size": [40, 60], "counts": coded["counts"]}  # bytes are as good as text
    assert mask_iou([square], [ell]).tolist() == [[0.75]]
    assert mask_iou([], [ell]).shape == (0, 1)
    empty = rectangle(0, 0, 0, 0)
    assert mask_iou([empty, square], [empty]).tolist() == [[0], [0]]


@pytest.mark.parametrize("seed", range(25))
def test_equals_pycocotools_on_random_masks(seed):
    dataset, results = random_masks(np.random.default_rng(seed))
    limits = ((1, 3, 1000), (2, 10, 100))[seed % 2]
    thresholds = ((40.0, 150.0), (32.0**2, 96.0**2))[seed % 2]
    expected = pycocotools_recall(dataset, results, limits, thresholds, "segm")
    np.testing.assert_allclose(ours(dataset, results, limits, thresholds), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, [np.inf], "image 4: scores .* row 0"),
        (1, [0.0, 0.0], "image 4: 1 masks and 2 scores"),
        (2, [rectangle(0, 0, 2, 2, (41, 60))], r"image 4: .*different sizes, \[\(40, 60\), \(41, 60\)\]"),
        (2, [], r"set data\.load_masks to true"),
        (3, [], "0 areas"),
        (4, [0, 0], "2 is_crowd"),
    ],
)
def test_bad_values_are_named(column, value, message):
    mask = [rectangle(0, 0, 5, 5)]
    columns = [mask, [1.0], mask, [1.0], [False], [0]]
    columns[column] = value
    with pytest.raises(InputError, match=message):
        SegmentRecall().update(*given(*columns))

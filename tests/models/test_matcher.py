"""Labels of reference boxes, on a matrix that is small enough to check by eye."""

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.models.matcher import Matcher

#                   reference   0     1     2     3     4     5
IOU = torch.tensor([[0.75, 0.10, 0.50, 0.00, 0.29, 0.70], [0.20, 0.60, 0.45, 0.00, 0.30, 0.10]])


def test_thresholds():
    matched_idxs, match_labels = Matcher(0.7, 0.3, keep_best=False)(IOU)
    assert matched_idxs.tolist() == [0, 1, 0, 0, 1, 0]
    assert match_labels.tolist() == [1, -1, -1, 0, -1, 1]


def test_every_object_keeps_its_best_reference():
    # Object 1 has no reference at 0.7; its best, reference 1 at 0.6, becomes positive.
    _, match_labels = Matcher(0.7, 0.3)(IOU)
    assert match_labels.tolist() == [1, 1, -1, 0, -1, 1]


def test_ties_for_the_best_all_count():
    iou = torch.tensor([[0.4, 0.4, 0.1]])
    assert Matcher()(iou)[1].tolist() == [1, 1, 0]


def test_object_that_overlaps_nothing_makes_no_positives():
    assert Matcher()(torch.zeros(1, 4))[1].tolist() == [0, 0, 0, 0]


def test_image_without_objects_is_all_negative():
    matched_idxs, match_labels = Matcher()(torch.zeros(0, 5))
    assert matched_idxs.tolist() == [0] * 5
    assert match_labels.tolist() == [0] * 5


def test_thresholds_must_be_ordered():
    with pytest.raises(InputError, match=r"negative_iou 0\.8 and positive_iou 0\.5"):
        Matcher(0.5, 0.8)

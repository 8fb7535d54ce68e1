"""Labels of reference boxes, on overlaps that are small enough to check by eye."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from fpn_lightning.errors import InputError
from fpn_lightning.models import matcher
from fpn_lightning.models.matcher import Matcher

# Objects are the rows 0 to 100 and 100 to 200 of a column; a reference of h rows inside one has IoU h / 100 with it.
OBJECTS = torch.tensor([[0.0, 0, 100, 100], [0, 100, 100, 200]])
ROWS = [(0, 75), (140, 200), (0, 50), (300, 400), (170, 200), (0, 70), (40, 200)]
#            reference   0     1     2     3     4     5     6
#             object 0: 0.75  0     0.5   0     0     0.7   60 / 200
#             object 1: 0     0.6   0     0     0.3   0     100 / 160
REFERENCES = torch.tensor([[0.0, top, 100, bottom] for top, bottom in ROWS])


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """Boxes on a coarse grid, so that many overlaps are equal."""
    ends = torch.randint(0, 9, (2, count, 2), generator=torch.Generator().manual_seed(seed))
    return torch.cat((ends.amin(dim=0), ends.amax(dim=0) + 1), dim=1).float()


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest result of an operation had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_thresholds():
    matched_idxs, match_labels = Matcher(0.7, 0.3, keep_best=False)(OBJECTS, REFERENCES)
    assert matched_idxs.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert match_labels.tolist() == [1, -1, -1, 0, -1, 1, -1]


def test_every_object_keeps_its_best_reference():
    # Object 1 has no reference at 0.7; its best, reference 6 at 0.625, becomes positive.
    _, match_labels = Matcher(0.7, 0.3)(OBJECTS, REFERENCES)
    assert match_labels.tolist() == [1, -1, -1, 0, -1, 1, 1]


def test_ties_for_the_best_all_count():
    references = torch.tensor([[0.0, 0, 100, 40], [0, 60, 100, 100], [0, 0, 100, 10]])
    assert Matcher()(OBJECTS[:1], references)[1].tolist() == [1, 1, 0]


def test_object_that_overlaps_nothing_makes_no_positives():
    assert Matcher()(OBJECTS[1:], REFERENCES[[0, 2, 3]])[1].tolist() == [0, 0, 0]


def test_image_without_objects_is_all_negative():
    matched_idxs, match_labels = Matcher()(torch.zeros(0, 4), REFERENCES)
    assert matched_idxs.tolist() == match_labels.tolist() == [0] * 7


@pytest.mark.parametrize("keep_best", [False, True])
def test_objects_taken_in_turn_match_as_all_at_once(monkeypatch, keep_best):
    boxes, references = random_boxes(40, seed=0), random_boxes(300, seed=1)
    iou = box_iou(boxes, references)
    highest = iou.amax(dim=0)
    assert ((iou == highest).sum(dim=0) > 1).any()  # the first of several equal objects counts
    best = ((iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)).any(dim=0) & keep_best
    for at_a_time in (1, 7, 40):
        monkeypatch.setattr(matcher, "PAIRS_AT_A_TIME", at_a_time * len(references))
        matched_idxs, match_labels = Matcher(0.7, 0.3, keep_best)(boxes, references)
        assert torch.equal(matched_idxs, (iou == highest).int().argmax(dim=0))
        assert torch.equal(match_labels == 1, (highest >= 0.7) | best)
        assert torch.equal(match_labels == 0, (highest < 0.3) & ~best)


def test_memory_does_not_grow_with_the_number_of_objects(monkeypatch):
    references = random_boxes(500, seed=1)
    monkeypatch.setattr(matcher, "PAIRS_AT_A_TIME", 10 * len(references))
    for count in (1, 1000):
        with LargestTensor() as largest:
            Matcher()(random_boxes(count, seed=0), references)
        assert largest.elements <= 10 * len(references) * 4  # corners of 10 objects and all references


def test_thresholds_must_be_ordered():
    with pytest.raises(InputError, match=r"negative_iou 0\.8 and positive_iou 0\.5"):
        Matcher(0.5, 0.8)

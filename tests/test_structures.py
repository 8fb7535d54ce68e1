"""Structures: from the network input to the image file, and from device to device."""

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import move_data_to_device
from torch.utils.data._utils.pin_memory import pin_memory

from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import GroundTruth, check_masks
from fpn_lightning.structures import Batch, Detections, Proposals
from tests.models.builders import annotated, box_masks, image_batch, targets


def test_proposals_and_detections_of_the_file_by_hand():
    # A 100 x 200 file seen at 50 x 80 px and mirrored: x grows by 2.5 from the other side, y by 2.
    boxes, numbers = torch.tensor([[8.0, 10, 40, 25], [0, 0, 80, 50]]), torch.tensor([2.0, 1.0])
    geometry = Geometry((100, 200), (50, 80), flipped=True)
    proposals = Proposals(boxes, numbers, torch.tensor([3, 4])).to_orig(geometry, 7)
    detections = Detections(boxes, numbers, torch.tensor([3, 4])).to_orig(geometry, 7)
    for found in (proposals, detections):
        assert found.boxes_orig.tolist() == [[100, 20, 180, 50], [0, 0, 200, 100]]
        assert found.boxes_orig.dtype == found.boxes_xywh.dtype == torch.float64
        assert found.boxes_xywh.tolist() == [[100, 20, 80, 30], [0, 0, 200, 100]]
        assert (found.image_id, len(found)) == (7, 2)
    assert (proposals.objectness.tolist(), proposals.levels.tolist()) == ([2, 1], [3, 4])
    assert (detections.scores.tolist(), detections.labels.tolist()) == ([2, 1], [3, 4])


def test_boxes_stay_inside_the_file():
    # 703 / 77 * 77 is a little more than 703.
    boxes, none = torch.tensor([[0.0, 0.0, 77.0, 33.0], [-1, -1, 80, 35]]), torch.zeros(2)
    found = Proposals(boxes, none, none.long()).to_orig(Geometry((301, 703), (33, 77)), 1)
    assert found.boxes_orig.tolist() == [[0, 0, 703, 301]] * 2


def test_ground_truth_may_be_read_only():
    boxes = np.array([[1.0, 2, 3, 4]])
    boxes.setflags(write=False)
    truth = GroundTruth(1, boxes, np.ones(1), np.zeros(1, bool), np.zeros(1, int))
    assert truth.boxes_orig.tolist() == [[1, 2, 4, 6]]
    assert annotated(targets([])).boxes_orig.shape == (0, 4)


def test_masks_that_were_not_loaded_are_requested():
    with_masks = targets([[1, 2, 3, 4]])
    for objects in (with_masks, annotated(with_masks)):
        with pytest.raises(InputError, match=r"data\.load_masks"):
            check_masks(objects)
    with_masks.masks = box_masks(with_masks.boxes, 8, 8)
    for objects in (with_masks, annotated(with_masks), targets([]), annotated(targets([]))):
        check_masks(objects)


def whole_batch() -> Batch:
    proposals = Proposals(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    objects = targets([[1, 2, 3, 4]])
    objects.masks = box_masks(objects.boxes, 32, 32)
    return Batch(image_batch([(32, 32)]), [objects], [annotated(objects)], [proposals])


def test_batches_move_whole():
    assert Batch(image_batch([(32, 32)])).proposals == []
    batch = whole_batch()
    for moved in (batch.to("meta"), move_data_to_device(batch, torch.device("meta"))):  # the second as Lightning does
        for tensor in (moved.images.pixels, moved.images.sizes, moved.targets[0].boxes, moved.proposals[0].objectness):
            assert tensor.device.type == "meta"
        # float64, and read on the CPU
        assert moved.ground_truths[0] is batch.ground_truths[0]
        assert moved.images.geometries == batch.images.geometries
        assert moved.targets[0].masks == batch.targets[0].masks
        assert len(moved) == 1
    assert batch.images.pixels.device.type == "cpu"


def test_batches_are_pinned_whole(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: pinned.append(tensor) or tensor)
    batch = whole_batch()
    # The DataLoader calls the method of types that it does not know.
    result = pin_memory(batch)
    assert isinstance(result, Batch)
    tensors = [*vars(batch.images).values(), *vars(batch.targets[0]).values(), *vars(batch.proposals[0]).values()]
    tensors = [value for value in tensors if isinstance(value, torch.Tensor)]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors}
    assert len(pinned) == 3 + 2 + 3
    assert result.ground_truths[0] is batch.ground_truths[0]


def test_one_image_of_a_batch():
    images = image_batch([(32, 64), (40, 20)])
    single = images.only(1)
    assert len(single) == 1
    assert (single.image_ids.tolist(), single.sizes.tolist()) == ([1], [[40, 20]])
    assert single.geometries == [Geometry((40, 20), (40, 20))]
    assert torch.equal(single.pixels[0], images.pixels[1])

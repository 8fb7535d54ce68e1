"""Coordinates between the network input and the image file, and moving structures about."""

import torch

from fpn_lightning.data.transforms import Geometry
from fpn_lightning.structures import Batch, Proposals, boxes_to_original, xyxy_to_xywh
from tests.models.builders import image_batch, targets


def test_boxes_to_original_by_hand():
    # A 100 × 200 file seen at 50 × 80 px: x grows by 2.5, y by 2.
    boxes = torch.tensor([[8.0, 10.0, 40.0, 25.0]])
    size, size_orig = torch.tensor([50, 80]), torch.tensor([100, 200])
    assert boxes_to_original(boxes, size, size_orig, False).tolist() == [[20, 20, 100, 50]]
    # Mirrored, x runs from the other side: 80 - 40 = 40 and 80 - 8 = 72.
    assert boxes_to_original(boxes, size, size_orig, True).tolist() == [[100, 20, 180, 50]]


def test_it_inverts_what_the_loader_does_to_boxes():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([300.0, 200.0])
    side = torch.rand(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([300.0, 200.0]) + 1
    boxes = torch.cat((corner, corner + side), dim=1)
    for flipped in (False, True):
        geometry = Geometry(size_orig=(427, 640), size=(800, 1199), flipped=flipped)
        mapped = torch.from_numpy(geometry.map_boxes(boxes.numpy()))
        back = boxes_to_original(mapped, torch.tensor([800, 1199]), torch.tensor([427, 640]), flipped)
        assert (back - boxes).abs().max() < 1e-9


def test_boxes_stay_inside_the_file():
    size = torch.tensor([33, 77])
    back = boxes_to_original(torch.tensor([[0.0, 0.0, 77.0, 33.0]]), size, torch.tensor([301, 703]), False)
    assert back.tolist() == [[0, 0, 703, 301]]


def test_xywh():
    assert xyxy_to_xywh(torch.tensor([[1.0, 2.0, 4.0, 8.0]])).tolist() == [[1, 2, 3, 6]]


def test_structures_move_whole():
    proposals = Proposals(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert Batch(image_batch([(32, 32)]), []).proposals == []
    batch = Batch(image_batch([(32, 32)]), [targets([[1, 2, 3, 4]])], [proposals])
    moved = batch.to("meta")
    assert moved.images.pixels.device.type == "meta"
    assert moved.targets[0].boxes.device.type == "meta"
    assert moved.proposals[0].objectness.device.type == "meta"
    assert moved.targets[0].areas_orig.device.type == "cpu"  # float64, and evaluated there
    assert batch.images.pixels.device.type == "cpu"
    assert len(moved) == 1

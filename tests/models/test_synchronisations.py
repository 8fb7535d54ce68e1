"""How often the host would wait for a GPU in a training step, counted on the CPU by the operations that make it wait.

These are the operations whose result has a size that depends on values, and those that hand a value to Python.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.nms import nms_in_one_call
from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
from fpn_lightning.structures import Batch
from tests.models.builders import image_batch, labelled

WAITING = {
    "aten::_local_scalar_dense",  # item(), bool()
    "aten::_unique2",
    "aten::bincount",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "torchvision::nms",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}  # by a mask


class Synchronisations(TorchDispatchMode):
    """Counts them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        by_mask = name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        self.names[name] += name in WAITING or by_mask
        return func(*args, **(kwargs or {}))


@pytest.fixture
def lists(monkeypatch) -> list[int]:
    """Lengths of the tensors that were turned into lists; on the CPU no operation shows it."""
    seen: list[int] = []
    to_list = torch.Tensor.tolist

    def counted(self: torch.Tensor) -> list:
        seen.append(len(self))
        return to_list(self)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    return seen


def test_a_training_step_of_two_images_waits_at_most_12_times(lists, monkeypatch):
    torch.manual_seed(0)
    stage = FasterRCNNStage(Detector(NarrowResNet(), channels=8, fc_width=16))
    # The RPN calls NMS once per level on a CPU, and once on a GPU.
    monkeypatch.setattr(
        "fpn_lightning.models.rpn.nms_per_level",
        lambda boxes, scores, levels, thresh: nms_in_one_call(boxes, scores, levels, boxes.new_tensor(320), thresh),
    )
    images = image_batch([(256, 320), (320, 256)])
    truth = [labelled([[10, 20, 100, 120], [90, 30, 150, 90]], [0, 7]), labelled([[30, 40, 62, 80]], [11])]
    with Synchronisations() as counted:
        losses = stage.losses(Batch(images, truth))
        torch.stack(list(losses.values())).sum().backward()
    assert counted.names["torchvision::nms"] == 2  # one for each image, not one for each level
    assert counted.names.total() + len(lists) <= 12, (counted.names, lists)

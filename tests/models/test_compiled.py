"""Compiled backbone and pyramid: the maps and gradients of the eager ones, and few compilations for COCO's sizes."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Detector
from fpn_lightning.structures import ImageBatch
from tests.models.builders import whole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]
# Network inputs of COCO's images at a quarter of their size, padded to 32 px: both orientations, narrow and square.
SIZES = [(224, 288), (224, 320), (320, 224), (288, 224), (160, 352), (352, 192), (224, 224), (224, 256)]


def images(size: tuple[int, int], count: int = 1) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    return ImageBatch(pixels, torch.tensor([size] * count), torch.arange(count), whole([size] * count))


@pytest.fixture(autouse=True)
def forget():
    """Start and end without compiled code."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_sizes_of_coco_need_few_compilations():
    torch.manual_seed(0)
    detector = Detector(NarrowResNet(64, norm="group"), channels=64, fc_width=8).eval()
    detector.compile_maps(constant_weights=True)
    with torch.inference_mode():
        for size in SIZES:
            batch = images(size)
            maps, eager = detector(batch), detector._maps(detector.backbone.normalize(batch))
            for name, expected in eager.items():
                assert (maps[name] - expected).abs().max() < 1e-4 * expected.std()
    assert 1 <= counters["stats"]["unique_graphs"] <= 3


def test_gradients_follow_the_weights():
    torch.manual_seed(0)
    detector = Detector(NarrowResNet(8, norm="group"), channels=64, roi_heads=None)
    batch = images((128, 160), 2)
    detector.compile_maps(constant_weights=False)
    for _ in range(2):  # with other weights the second time
        eager = detector._maps(detector.backbone.normalize(batch))
        losses = [maps["p2"].square().mean() for maps in (detector(batch), eager)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
        parameters = list(detector.backbone.stages.parameters())
        for ours, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())
        with torch.no_grad():
            for parameter in parameters:
                parameter *= 1.1

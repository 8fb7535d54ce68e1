"""Helpers for the tests of all backbones: weights other than the initial ones, and a training step of an RPN."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.detector import Detector, Scale
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch
from tests.models.builders import image_batch, targets


def trained_batchnorm(model: nn.Module) -> nn.Module:
    """Set random BatchNorm statistics and affine parameters, and return the model in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def saved(model: nn.Module, folder: Path) -> str:
    """Save the model's state dict and return the path."""
    path = folder / "weights.pth"
    torch.save(model.state_dict(), path)
    return str(path)


def one_step(backbone: Backbone) -> RPNStage:
    """Return a stage with the backbone after one backward pass; one image of the batch has no objects."""
    torch.manual_seed(0)
    detector = Detector(backbone, roi_heads=None, channels=16, scale=Scale(base_anchor_size=8))
    stage = RPNStage(detector).train()
    objects = [targets([[4, 4, 30, 24], [36, 30, 60, 60]]), targets([])]
    losses = stage.losses(Batch(image_batch([(64, 64), (64, 57)]), objects))
    assert list(losses) == ["loss_rpn_cls", "loss_rpn_loc"]
    sum(losses.values()).backward()
    return stage


def check_gradients(stage: RPNStage) -> None:
    """Check that every trained parameter has a finite gradient."""
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

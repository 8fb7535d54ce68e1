"""Reproduces "Feature Pyramid Networks for Object Detection" (Lin et al., CVPR 2017), one config per row of a table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpn_lightning.api import load
    from fpn_lightning.data.datamodule import COCODataModule
    from fpn_lightning.models.detector import Detector
    from fpn_lightning.stages.fast_rcnn import FastRCNNStage
    from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
    from fpn_lightning.stages.mask_proposals import MaskProposalStage
    from fpn_lightning.stages.rpn import RPNStage

# A module is imported when its name in ``_MODULES`` is first used. Reporting and scoring therefore import neither
# torch nor Lightning.
_MODULES = {
    "COCODataModule": "fpn_lightning.data.datamodule",
    "Detector": "fpn_lightning.models.detector",
    "FastRCNNStage": "fpn_lightning.stages.fast_rcnn",
    "FasterRCNNStage": "fpn_lightning.stages.faster_rcnn",
    "MaskProposalStage": "fpn_lightning.stages.mask_proposals",
    "RPNStage": "fpn_lightning.stages.rpn",
    "load": "fpn_lightning.api",
}
__all__ = ["COCODataModule", "Detector", "FastRCNNStage", "FasterRCNNStage", "MaskProposalStage", "RPNStage", "load"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

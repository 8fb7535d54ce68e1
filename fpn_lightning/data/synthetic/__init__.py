"""The synthetic data set: generated images with annotation files in COCO's format."""

from fpn_lightning.data.synthetic.generation import generate
from fpn_lightning.data.synthetic.scene import area_thresholds

__all__ = ["area_thresholds", "generate"]

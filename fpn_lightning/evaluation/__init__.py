"""COCO's average recall and average precision, exactly."""

from typing import Literal

Backend = Literal["faster-coco-eval", "pycocotools"]
"""The evaluators of average precision."""

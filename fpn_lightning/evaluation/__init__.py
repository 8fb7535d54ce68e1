"""Computes average recall and average precision with exactly the values of COCO's evaluator."""

from typing import Literal

Backend = Literal["faster-coco-eval", "pycocotools"]
"""Names of the libraries that compute average precision."""

"""detectron2's Faster R-CNN R50-FPN (``.pkl``, ``.pth``): ``--model.init_from detectron2:PATH``, and back.

Its classes are in our order, background last. Its trunk reads BGR, subtracts a mean that older files hold
(``pixel_mean``), and has the stride in the first 1x1 of a block.

Back: ``python -m fpn_lightning.weights.detectron2 RUN/checkpoints/last.ckpt OUT.pkl``, for ``MODEL.WEIGHTS``.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.models.backbones.base import PIXEL_MEAN, PIXEL_STD
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.rpn import RPN
from fpn_lightning.state_dicts import State, checked, read_state_dict
from fpn_lightning.weights.others import (
    check_config,
    export_names,
    load_fitting,
    read_own,
    renamed,
    run_export,
)
from fpn_lightning.weights.pickles import read_arrays
from fpn_lightning.weights.torchvision import CATEGORY_IDS, CATEGORY_NAMES

ZOO = "configs/zoo/detectron2_r50_fpn.yaml"
PREFIXES = {
    "backbone.stem.0.": "backbone.bottom_up.stem.conv1.",
    "backbone.stem.1.": "backbone.bottom_up.stem.conv1.norm.",
    **{f"backbone.stages.{i}.": f"backbone.bottom_up.res{i + 2}." for i in range(4)},
    **{f"pyramid.lateral_convs.p{k}.": f"backbone.fpn_lateral{k}." for k in range(2, 6)},
    **{f"pyramid.output_convs.p{k}.": f"backbone.fpn_output{k}." for k in range(2, 6)},
    "rpn.heads.0.": "proposal_generator.rpn_head.",
    **{f"roi_heads.box_head.{fc}.": f"roi_heads.box_head.{fc}." for fc in ("fc1", "fc2")},
    "roi_heads.predictor.class_logits.": "roi_heads.box_predictor.cls_score.",
    "roi_heads.predictor.box_deltas.": "roi_heads.box_predictor.bbox_pred.",
}
# Inside a block: the norm belongs to its convolution.
IN_BLOCK = (
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."


def name_of(ours: str) -> str | None:
    """The name that detectron2 has for one of our tensors; ``None`` where it has none."""
    theirs = renamed(ours, PREFIXES)
    if theirs is not None:
        for pattern, replacement in IN_BLOCK:
            theirs = re.sub(pattern, replacement, theirs)
    return theirs


def load(detector: Detector, path: str) -> dict[str, Any]:
    """Load a checkpoint of detectron2's Faster R-CNN for COCO, running no code from it.

    Args:
        detector: a Faster R-CNN as ``configs/zoo/detectron2_r50_fpn.yaml`` builds it.
        path: ``.pkl`` of its model zoo, or what its trainer saved (``.pth``).

    Returns:
        ``categories``, as a checkpoint of ours has them.

    Raises:
        InputError: if file or configuration do not fit.
    """
    rpn, _ = check_config(detector, path, ZOO, "detectron2", "exact", sampling_ratio=0, aligned=True)
    if path.endswith(".pkl"):
        state = checked(
            {name: torch.as_tensor(array) for name, array in read_arrays(path).items()}, path, "model.init_from"
        )
    else:
        state = read_state_dict(path, "model.init_from")
    _check_constants(state, rpn, path)
    load_fitting(detector, state, name_of, lambda _, tensor: tensor, path, ZOO)
    return {"categories": {"ids": CATEGORY_IDS, "names": [CATEGORY_NAMES[i] for i in CATEGORY_IDS]}}


def _check_constants(state: State, rpn: RPN, path: str) -> None:
    """Take out what older files hold besides weights, and compare it with what the model uses.

    Raises:
        InputError: naming the first that differs.
    """
    cells = list(rpn.anchor_generator.buffers())
    constants = {
        "pixel_mean": torch.tensor(PIXEL_MEAN["detectron2"]),
        "pixel_std": torch.tensor(PIXEL_STD["detectron2"]),
        **{f"{CELL_ANCHORS}{level}": cell.cpu() for level, cell in enumerate(cells)},
    }
    for name, ours in constants.items():
        theirs = state.pop(name, ours)
        if theirs.numel() != ours.numel() or not torch.allclose(theirs.reshape(ours.shape).to(ours), ours, atol=1e-3):
            raise InputError(f"model.init_from: {path}: {name} is {_values(theirs)}; this model's is {_values(ours)}.")


def _values(tensor: Tensor) -> list[float]:
    return [round(value, 3) for value in tensor.flatten().tolist()]


def export_state(state: State, category_ids: Sequence[int], path: str) -> State:
    """Tensors of a Faster R-CNN of ours under detectron2's names; its classes are ours, in our order.

    Args:
        state: of a checkpoint of this project.
        category_ids: its category ids, ascending.
        path: of the checkpoint, for messages.

    Raises:
        InputError: if it is another kind of model.
    """
    logits = state.get("roi_heads.predictor.class_logits.bias")
    if logits is not None and len(logits) != len(category_ids) + 1:
        raise InputError(f"{path}: {len(logits)} logits for {len(category_ids)} categories and background.")
    return export_names(state, name_of, path)


def export(checkpoint: str, output: Path) -> None:
    """Write a checkpoint of this project as detectron2's model zoo does: arrays by name, pickled."""
    state = export_state(*read_own(checkpoint), checkpoint)
    content = {"model": {name: tensor.numpy() for name, tensor in state.items()}, "__author__": "fpn_lightning"}
    write_whole(output, pickle.dumps(content, protocol=2))


if __name__ == "__main__":
    sys.exit(run_export(export, "detectron2", None))

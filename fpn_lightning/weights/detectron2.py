"""Loads and exports weights of detectron2's Faster R-CNN R50-FPN (``--model.init_from detectron2:PATH``).

detectron2 orders classes as this project does, background last. detectron2's backbone takes BGR images and subtracts a
pixel mean; older files contain this mean as ``pixel_mean``. In detectron2's ResNet blocks, the first 1x1
convolution has the stride.

``python -m fpn_lightning.weights.export CHECKPOINT OUT.pkl --format detectron2`` writes a file for detectron2's option
``MODEL.WEIGHTS``.
"""

from __future__ import annotations

import pickle
import re
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
from fpn_lightning.state_dicts import MAX_NAMES, State, checked, read_state_dict, unwrapped
from fpn_lightning.weights.others import check_config, export_names, load_fitting, renamed
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
# Names inside a ResNet block. For example, detectron2's name of the norm layer after "conv1" is "conv1.norm".
IN_BLOCK = (
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."


def name_of(ours: str) -> str | None:
    """Return detectron2's name of a tensor of this project; ``None`` if detectron2 has no such tensor."""
    theirs = renamed(ours, PREFIXES)
    if theirs is not None:
        for pattern, replacement in IN_BLOCK:
            theirs = re.sub(pattern, replacement, theirs)
    return theirs


def load(detector: Detector, path: str, new_classes: bool) -> dict[str, Any]:
    """Load a checkpoint of detectron2's Faster R-CNN for COCO, without running code from it.

    Args:
        detector: a Faster R-CNN as in ``configs/zoo/detectron2_r50_fpn.yaml``.
        path: a file of detectron2's model zoo (``.pkl``) or of its trainer (``.pth``).
        new_classes: do not load the class predictor, because the data set has other classes.

    Returns:
        ``{"categories": ...}``: COCO's categories, in the format of this project's checkpoints.

    Raises:
        InputError: if the file does not contain detectron2's Faster R-CNN for COCO, or if the configuration does not
            match the file.
    """
    rpn = check_config(detector, path, ZOO, "detectron2", "exact", sampling_ratio=0, aligned=True)
    if path.endswith(".pkl"):
        arrays = {name: torch.as_tensor(array) for name, array in read_arrays(path).items()}
        state = unwrapped(checked(arrays, path, "model.init_from"), path, "model.init_from")
    else:
        state = read_state_dict(path, "model.init_from")
    _check_constants(state, rpn, path)
    load_fitting(detector, state, name_of, lambda _, tensor: tensor, path, ZOO, new_classes)
    return {"categories": {"ids": CATEGORY_IDS, "names": [CATEGORY_NAMES[i] for i in CATEGORY_IDS]}}


def _check_constants(state: State, rpn: RPN, path: str) -> None:
    """Check that pixel mean, pixel std and anchors in ``state`` are those of the model; remove them from ``state``.

    Only older files of detectron2 contain these constants.

    Raises:
        InputError: if a constant differs; the message names the first such constant.
    """
    constants = {
        "pixel_mean": torch.tensor(PIXEL_MEAN["detectron2"]),
        "pixel_std": torch.tensor(PIXEL_STD["detectron2"]),
        **{f"{CELL_ANCHORS}{i}": anchors.cpu() for i, anchors in enumerate(rpn.anchor_generator.buffers())},
    }
    for name, ours in constants.items():
        theirs = state.pop(name, ours)
        if theirs.numel() != ours.numel() or not torch.allclose(theirs.reshape(ours.shape).to(ours), ours, atol=1e-3):
            raise InputError(
                f"model.init_from: {path}: {name} is {_values(theirs)} in the file and {_values(ours)} in this model. "
                f"Give a file that was trained with this model's {name}. For the published weights use {ZOO}."
            )


def _values(tensor: Tensor) -> str:
    shown = ", ".join(f"{value:.6g}" for value in tensor.flatten()[:MAX_NAMES].tolist())
    return f"[{shown}{', …' if tensor.numel() > MAX_NAMES else ''}]"


def export(state: State, category_ids: Sequence[int], path: str, output: Path) -> None:
    """Write the state dict of a Faster R-CNN in the format of detectron2's model zoo, a pickled dictionary of arrays.

    Raises:
        InputError: if the model does not have the architecture of detectron2's Faster R-CNN.
    """
    logits = state.get("roi_heads.predictor.class_logits.bias")
    if logits is not None and len(logits) != len(category_ids) + 1:
        raise InputError(
            f"{path} cannot be exported: it has {len(logits)} class logits; detectron2 needs one logit for each of "
            f"the {len(category_ids)} categories and one for background. Give a checkpoint that was trained without "
            "model.detector.roi_heads.unused_logits."
        )
    theirs = export_names(state, name_of, path)
    content = {"model": {name: tensor.numpy() for name, tensor in theirs.items()}, "__author__": "fpn_lightning"}
    write_whole(output, pickle.dumps(content, protocol=2))

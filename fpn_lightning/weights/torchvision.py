"""Loads and exports weights of torchvision's ``fasterrcnn_resnet50_fpn`` (``--model.init_from torchvision:PATH``).

torchvision's classifier has 91 logits: background (0), then the COCO ids 1 to 90. This project's classifier has the 80
categories in the order of their ids, then background, then the ten ids that COCO does not use
(``roi_heads.unused_logits``). In torchvision's model and in this project's, the softmax is over all logits, also those
of unused ids.

``python -m fpn_lightning.weights.export CHECKPOINT OUT.pth --format torchvision`` writes a file that torchvision loads
as follows::

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)  # frozen BatchNorm
    model = FasterRCNN(backbone, num_classes=91)  # the largest category id + 1
    model.load_state_dict(torch.load("OUT.pth", weights_only=True))

The file contains tensors only. When you build torchvision's model, give it the exported model's RoI pooling,
anchors and BatchNorm epsilon.
torchvision's own COCO_V1 weights need a BatchNorm epsilon of 0: ``overwrite_eps(model, 0.0)`` in torchvision,
``norm_eps: 0.0`` in this project.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from fpn_lightning.errors import InputError
from fpn_lightning.models.detector import Detector
from fpn_lightning.state_dicts import State, read_state_dict
from fpn_lightning.weights.checkpoint import write_checkpoint
from fpn_lightning.weights.others import THEIR_PREDICTOR, check_config, export_names, load_fitting, renamed

ZOO = "configs/zoo/torchvision_r50_fpn.yaml"
# Category names, indexed by category id: "__background__" for 0, and "N/A" for unused ids.
CATEGORY_NAMES: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
CATEGORY_IDS = [i for i, name in enumerate(CATEGORY_NAMES) if i > 0 and name != "N/A"]
PREFIXES = {
    "backbone.stem.0.": "backbone.body.conv1.",
    "backbone.stem.1.": "backbone.body.bn1.",
    **{f"backbone.stages.{i}.": f"backbone.body.layer{i + 1}." for i in range(4)},
    **{f"pyramid.lateral_convs.p{i + 2}.": f"backbone.fpn.inner_blocks.{i}." for i in range(4)},
    **{f"pyramid.output_convs.p{i + 2}.": f"backbone.fpn.layer_blocks.{i}." for i in range(4)},
    "rpn.heads.0.conv.": "rpn.head.conv.",
    "rpn.heads.0.objectness_logits.": "rpn.head.cls_logits.",
    "rpn.heads.0.anchor_deltas.": "rpn.head.bbox_pred.",
    "roi_heads.box_head.fc1.": "roi_heads.box_head.fc6.",
    "roi_heads.box_head.fc2.": "roi_heads.box_head.fc7.",
    "roi_heads.predictor.class_logits.": "roi_heads.box_predictor.cls_score.",
    "roi_heads.predictor.box_deltas.": "roi_heads.box_predictor.bbox_pred.",
}
CLASS_LOGITS, BOX_DELTAS = "roi_heads.predictor.class_logits.", "roi_heads.predictor.box_deltas."
# From release 0.13 on, torchvision wraps the convolutions of FPN and RPN head in a Sequential, which adds ".0" to their
# names. torchvision's published weights have the tensor names from before release 0.13.
NEWER_NAMES = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d|rpn\.head\.conv)(?:\.0)?\.0\.(?=weight|bias)")
NEVER = -1e4  # logit of an unused id; after the softmax, its probability is exactly 0 in any precision


def name_of(ours: str) -> str | None:
    """Return torchvision's name of a tensor of this project; ``None`` if torchvision has no such tensor."""
    return renamed(ours, PREFIXES)


def class_order(category_ids: Sequence[int]) -> list[int]:
    """Return, for each logit of this project, the index of the same logit in torchvision's classifier.

    This project orders its logits as follows: categories, background, unused ids.
    """
    gaps = sorted(set(range(1, max(category_ids) + 1)) - set(category_ids))
    return [*category_ids, 0, *gaps]


def load(detector: Detector, path: str, new_classes: bool) -> dict[str, Any]:
    """Load a checkpoint of torchvision's Faster R-CNN for COCO, without running code from it.

    Args:
        detector: a Faster R-CNN as in ``configs/zoo/torchvision_r50_fpn.yaml``.
        path: a state dict written by ``torch.save``.
        new_classes: do not load the class predictor, because the data set has other classes.

    Returns:
        ``{"categories": ...}``: COCO's categories, in the format of this project's checkpoints.

    Raises:
        InputError: if the file does not contain torchvision's Faster R-CNN for COCO, or if the configuration does not
            match the file.
    """
    check_config(detector, path, ZOO, "torchvision", "torchvision", sampling_ratio=2, aligned=False)
    state = {NEWER_NAMES.sub(r"\1.", name): tensor for name, tensor in read_state_dict(path, "model.init_from").items()}
    if not new_classes:
        _check_classes(state, path)

    def convert(ours: str, tensor: Tensor) -> Tensor:
        if ours.startswith(CLASS_LOGITS):
            return tensor[class_order(CATEGORY_IDS)]
        if ours.startswith(BOX_DELTAS):  # box deltas of background and of unused ids are never read
            return tensor.unflatten(0, (-1, 4))[CATEGORY_IDS].flatten(0, 1)
        return tensor

    load_fitting(detector, state, name_of, convert, path, ZOO, new_classes)
    return {"categories": {"ids": CATEGORY_IDS, "names": [CATEGORY_NAMES[i] for i in CATEGORY_IDS]}}


def _check_classes(state: State, path: str) -> None:
    """Raise InputError if the file's class predictor does not have outputs for COCO's classes."""
    for part, rows in (("cls_score", len(CATEGORY_NAMES)), ("bbox_pred", 4 * len(CATEGORY_NAMES))):
        for name in (f"{THEIR_PREDICTOR}{part}.{kind}" for kind in ("weight", "bias")):
            if name in state and state[name].shape[:1] != (rows,):
                raise InputError(
                    f"model.init_from: {path}: {name} has shape {tuple(state[name].shape)}; in "
                    f"torchvision's models for COCO, it has {rows} rows. To load all other weights and train a new "
                    "class predictor: --model.new_classes true."
                )


def published(name: str) -> Path | None:
    """Return the path of published weights (``COCO_V1``) in torch's cache; ``None`` for any other ``name``."""
    weights = FasterRCNN_ResNet50_FPN_Weights.__members__.get(name)
    return None if weights is None else Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights.url).name)


def fetch(name: str) -> None:
    """Download published weights if torch's cache does not have them. The downloaded file is checked against a hash.

    Raises:
        InputError: if the download fails.
    """
    file = published(name)
    if file is None or file.is_file():
        return
    weights = FasterRCNN_ResNet50_FPN_Weights[name]
    try:
        weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:  # raised without a network, or if the hash is wrong
        raise InputError(
            f"model.init_from: torchvision:{name} could not be fetched from {weights.url} ({error}). Download this "
            f"file into {file.parent}, or give its path as torchvision:PATH."
        ) from error


def export_state(state: State, category_ids: Sequence[int], path: str) -> State:
    """Convert a detector's state dict to torchvision's names, with logits indexed by category id.

    Box deltas of background and of unused ids are set to 0. If the model has no logits of unused ids, the exported
    logits of these ids are so low that their probability is 0. ``category_ids`` must be ascending. ``path`` is the
    checkpoint, for error messages.

    Raises:
        InputError: if the model does not have the architecture of torchvision's Faster R-CNN.
    """
    theirs = export_names(state, name_of, path)
    if not category_ids or category_ids[0] < 1:
        raise InputError(
            f"{path} cannot be exported: torchvision uses category ids as indices of its logits, so every "
            f"category id has to be 1 or larger. First ids: {list(category_ids)[:5]}. Use --format detectron2, "
            "which accepts any ids."
        )
    order = class_order(category_ids)
    for kind in ("weight", "bias"):
        logits, deltas = state[CLASS_LOGITS + kind], state[BOX_DELTAS + kind]
        if len(logits) not in (len(order), len(category_ids) + 1):
            raise InputError(
                f"{path} cannot be exported: it has {len(logits)} class logits, which does not match its "
                f"{len(category_ids)} categories and background. Give a checkpoint written by train.py fit."
            )
        placed = logits.new_full((len(order), *logits.shape[1:]), 0.0 if kind == "weight" else NEVER)
        placed[order[: len(logits)]] = logits
        boxes = deltas.new_zeros(len(order), 4, *deltas.shape[1:])
        boxes[list(category_ids)] = deltas.unflatten(0, (-1, 4))
        theirs[f"roi_heads.box_predictor.cls_score.{kind}"] = placed
        theirs[f"roi_heads.box_predictor.bbox_pred.{kind}"] = boxes.flatten(0, 1)
    return theirs


def export(state: State, category_ids: Sequence[int], path: str, output: Path) -> None:
    """Write a detector's state dict for torchvision; see :func:`export_state`."""
    write_checkpoint(export_state(state, category_ids, path), output)

"""Functions for checkpoints of torchvision and detectron2: rename tensors, check the configuration, load, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.models.anchors import AnchorConvention, AnchorGenerator
from fpn_lightning.models.backbones.base import Convention
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.rpn import RPN
from fpn_lightning.state_dicts import COUNTER, State, compare, listed

# An unused tensor with one of these prefixes is an error, because the model of the file is larger than the detector.
# Other unused tensors, such as those of a mask head, are skipped with a warning.
PARTS = ("backbone.", "rpn.", "proposal_generator.", "roi_heads.box_head.", "roi_heads.box_predictor.")
PREDICTOR, THEIR_PREDICTOR = "roi_heads.predictor.", "roi_heads.box_predictor."
OTHER_CLASSES = " If your data has other classes than the file, give --model.new_classes true."
SIZES = [[32.0 * 2**octave] for octave in range(5)]  # anchor sizes of torchvision and detectron2 on p2..p6, px


def renamed(name: str, prefixes: Mapping[str, str]) -> str | None:
    """Replace the prefix of a tensor's name by its value in ``prefixes``; ``None`` if the name has no such prefix."""
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return None


def check_config(
    detector: Detector,
    path: str,
    zoo: str,
    convention: Convention,
    anchor_convention: AnchorConvention,
    sampling_ratio: int,
    aligned: bool,
) -> RPN:
    """Check that the configuration matches another project's weights, and return the RPN of the detector.

    Args:
        detector: the model of the configuration.
        path: the file with the weights, for error messages.
        zoo: path of the configuration of the published weights, for error messages.
        convention: required ``backbone.convention`` (channel order, mean and standard deviation of the input).
        anchor_convention: required ``anchors.convention`` of the RPN.
        sampling_ratio: required value of RoIAlign's ``sampling_ratio``.
        aligned: required value of RoIAlign's ``aligned``.

    Raises:
        InputError: if the configuration differs; the message names each key, its value and the required value.
    """
    rpn, roi_heads = detector.rpn, detector.roi_heads
    if rpn is None or roi_heads is None:
        absent = "rpn" if rpn is None else "roi_heads"
        raise InputError(f"model.init_from: {path} is a Faster R-CNN, but model.detector.{absent} is null. Use {zoo}.")
    generator, pooler = rpn.anchor_generator, roi_heads.pooler
    values: list[tuple[str, object, object]] = [
        ("backbone.convention", detector.backbone.convention, convention),
        ("pyramid", type(detector.pyramid).__name__, "FPN"),
        ("anchors.convention", generator.convention, anchor_convention),
        ("roi_pooler.op", pooler.op, "align"),
        ("roi_pooler.sampling_ratio", pooler.sampling_ratio, sampling_ratio),
        ("roi_pooler.aligned", pooler.aligned, aligned),
        ("scale.canonical_size", pooler.canonical_size, 224),
        ("roi_pooler.canonical_level", pooler.canonical_level, 4),
        ("roi_pooler.max_level", pooler.max_level, 5),
        ("roi_heads.delta_weights", tuple(roi_heads.box_coder.weights), (10, 10, 5, 5)),
    ]
    wrong = [f"model.detector.{key} is {ours} and has to be {theirs}" for key, ours, theirs in values if ours != theirs]
    if not wrong:
        fitting = AnchorGenerator(generator.strides, SIZES, convention=anchor_convention)
        pairs = zip(generator.buffers(), fitting.buffers(), strict=True)
        if not all(ours.shape == theirs.shape and torch.allclose(ours.cpu(), theirs) for ours, theirs in pairs):
            wrong = [
                "model.detector.scale.base_anchor_size and model.detector.anchors have to give anchors of 32 to 512 px "
                "with aspect ratios 1:2, 1:1 and 2:1"
            ]
    if wrong:
        raise InputError(f"model.init_from: {path} does not fit this model: {'; '.join(wrong)}. Use {zoo}.")
    return rpn


def load_fitting(
    detector: Detector,
    state: State,
    name_of: Callable[[str], str | None],
    convert: Callable[[str, Tensor], Tensor],
    path: str,
    zoo: str,
    new_classes: bool,
) -> None:
    """Load another project's weights into a detector.

    The file must contain every tensor of the detector. If the file has a tensor of a Faster R-CNN that the detector
    lacks, ``InputError`` is raised. Tensors of other parts, such as a mask head, are skipped with a warning.

    Args:
        detector: the model to load into; its configuration has passed :func:`check_config`.
        state: the tensors of the file, with the other project's names.
        name_of: maps a tensor name of this project to the other project's name, or to ``None`` if the other
            project has no such tensor.
        convert: takes a tensor name of this project and the other project's tensor; returns this project's tensor.
        path: the file, for messages.
        zoo: path of the configuration of the published weights, for error messages.
        new_classes: do not load the class predictor, because the data set has other classes.

    Raises:
        InputError: if a tensor is missing, unused or of another shape. The message lists the other project's names of
            these tensors.
    """
    ours = {name: tensor for name, tensor in detector.state_dict().items() if not name.endswith(COUNTER)}
    if new_classes:
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith(PREDICTOR)}
        state = {name: tensor for name, tensor in state.items() if not name.startswith(THEIR_PREDICTOR)}
    theirs = {name: name_of(name) or f"tensor for {name}" for name in ours}
    converted = {name: convert(name, state[theirs[name]]) for name in ours if theirs[name] in state}
    comparison = compare(
        {theirs[name]: tensor for name, tensor in ours.items()},
        state | {theirs[name]: tensor for name, tensor in converted.items()},
    )
    if comparison.missing:
        raise InputError(
            f"model.init_from: {path} has no {listed(comparison.missing)}. Give a file with all weights of this "
            f"configuration's Faster R-CNN. {zoo} is the configuration of the published weights."
        )
    if comparison.misshapen:
        hint = "" if new_classes else OTHER_CLASSES
        raise InputError(
            f"model.init_from: {path} does not fit this configuration: {listed(comparison.misshapen)}. {zoo} is the "
            f"configuration of the published weights.{hint if THEIR_PREDICTOR in comparison.misshapen[0] else ''}"
        )
    if larger := [name for name in comparison.unexpected if name.startswith(PARTS)]:
        raise InputError(
            f"model.init_from: {path} has a larger model than this configuration. The configuration's model "
            f"lacks {listed(larger)}. {zoo} is the configuration of the published weights."
        )
    detector.load_state_dict(converted, strict=False)  # not strict: `converted` has no BatchNorm counters
    if comparison.unexpected:
        rank_zero_warn(f"model.init_from {path}: these tensors are not used: {listed(comparison.unexpected)}")
    if new_classes:
        say_what_starts_afresh(path)


def say_what_starts_afresh(path: str) -> None:
    """Warn that the class predictor is not loaded."""
    rank_zero_warn(
        f"model.init_from {path}: the class predictor of the file is not loaded; {PREDICTOR}* keeps its initial values"
    )


def export_names(state: State, name_of: Callable[[str], str | None], path: str) -> State:
    """Rename the tensors of a detector's state dict for another project, with ``name_of`` as in :func:`load_fitting`.

    Raises:
        InputError: if the other project's model lacks a tensor, or if the detector is not a whole Faster R-CNN.
    """
    names = {name: name_of(name) for name in state if not name.endswith(COUNTER)}
    unknown = sorted(name for name, other in names.items() if other is None)
    stem = state.get("backbone.stem.0.weight")
    if unknown or stem is None or stem.shape[-1] != 7:
        detail = f": the export format has no tensor for {listed(unknown)}" if unknown else ""
        raise InputError(
            f"{path} cannot be exported{detail}. Give a checkpoint of a Faster R-CNN with a ResNet, FPN and the box "
            "head 2fc."
        )
    if absent := [head for head in ("rpn.", "roi_heads.") if not any(name.startswith(head) for name in names)]:
        raise InputError(
            f"{path} cannot be exported: it has no tensor {absent[0]}*. Give a checkpoint of a Faster R-CNN."
        )
    return {other: state[name] for name, other in names.items() if other is not None}

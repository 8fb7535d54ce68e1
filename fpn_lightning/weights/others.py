"""What the checkpoints of all other projects have in common: names that differ, a model that they fit or do not."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fpn_lightning.errors import InputError, complain
from fpn_lightning.models.anchors import AnchorConvention, AnchorGenerator
from fpn_lightning.models.backbones.base import Convention
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.rpn import RPN
from fpn_lightning.state_dicts import COUNTER, State, compare, listed
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint

# Leftover tensors under these prefixes mean a larger model, an error. Others (a mask head) are skipped with a warning.
PARTS = ("backbone.", "rpn.", "proposal_generator.", "roi_heads.box_head.", "roi_heads.box_predictor.")
SIZES = [[32.0 * 2**octave] for octave in range(5)]  # px, both projects' anchors on p2..p6


def renamed(name: str, prefixes: Mapping[str, str]) -> str | None:
    """A tensor's name with the first prefix that fits replaced; ``None`` where none does."""
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
) -> tuple[RPN, RoIHeads]:
    """Reject a configuration that computes something else than the weights were trained for.

    Args:
        detector: the model they are for.
        path: of the weights, for messages.
        zoo: the configuration that fits, for messages.
        convention: of the backbone.
        anchor_convention: of the RPN.
        sampling_ratio: of RoIAlign.
        aligned: of RoIAlign.

    Returns:
        The heads of the detector.

    Raises:
        InputError: naming every key that differs, its value and the one that fits.
    """
    rpn, roi_heads = detector.rpn, detector.roi_heads
    if rpn is None or roi_heads is None:
        absent = "rpn" if rpn is None else "roi_heads"
        raise InputError(f"model.init_from: {path} is a Faster R-CNN; model.detector.{absent} is null. Use {zoo}.")
    generator, pooler = rpn.anchor_generator, roi_heads.pooler
    facts: list[tuple[str, object, object]] = [
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
    wrong = [
        f"model.detector.{key} is {found} and has to be {wanted}" for key, found, wanted in facts if found != wanted
    ]
    if not wrong:
        fitting = AnchorGenerator(generator.strides, SIZES, convention=anchor_convention)
        pairs = zip(generator.buffers(), fitting.buffers(), strict=True)
        if not all(ours.shape == theirs.shape and torch.allclose(ours.cpu(), theirs) for ours, theirs in pairs):
            wrong = ["model.detector.scale.base_anchor_size and anchors have to give 32 to 512 px and 1:2 to 2:1"]
    if wrong:
        raise InputError(f"model.init_from: {path} does not fit: {'; '.join(wrong)}. Use {zoo}.")
    return rpn, roi_heads


def load_fitting(
    detector: Detector,
    state: State,
    name_of: Callable[[str], str | None],
    convert: Callable[[str, Tensor], Tensor],
    path: str,
    zoo: str,
) -> None:
    """Load another project's tensors: each of the detector's has to be there, and no other of the same parts.

    What is left over of other parts, as a mask head, is named.

    Args:
        detector: whose tensors are set.
        state: theirs, under their names.
        name_of: our name to theirs.
        convert: our name and their tensor to ours.
        path: of the file, for messages.
        zoo: the configuration that fits, for messages.

    Raises:
        InputError: naming the tensors that are missing, left over or of another shape, by their names.
    """
    own = {name: tensor for name, tensor in detector.state_dict().items() if not name.endswith(COUNTER)}
    theirs = {name: name_of(name) or f"(nothing like {name})" for name in own}
    there = {name: convert(name, state[theirs[name]]) for name in own if theirs[name] in state}
    found = compare(
        {theirs[name]: tensor for name, tensor in own.items()},
        # What no tensor of ours is made from keeps its shape; it is left over.
        state | {theirs[name]: tensor for name, tensor in there.items()},
    )
    if found.missing:
        raise InputError(f"model.init_from: {path} has no {listed(found.missing)}. Is it for this model? Use {zoo}.")
    if found.misshapen:
        raise InputError(f"model.init_from: {path} does not fit: {listed(found.misshapen)}. Use {zoo}.")
    if larger := [name for name in found.unexpected if name.startswith(PARTS)]:
        raise InputError(f"model.init_from: {path} is of a larger model: {listed(larger)} left over. Use {zoo}.")
    detector.load_state_dict(there, strict=False)  # not strict: counters of batches are not in `there`
    if found.unexpected:
        rank_zero_warn(f"model.init_from {path}: is not used: {listed(found.unexpected)}")


def read_own(path: str) -> tuple[State, list[int]]:
    """Tensors by a detector's names and category ids of a checkpoint of this project.

    Raises:
        InputError: if it is not a checkpoint.
    """
    checkpoint = read_checkpoint(path, "CHECKPOINT")
    return detector_state(checkpoint), list(checkpoint.get("categories", {}).get("ids", ()))


def export_names(state: State, name_of: Callable[[str], str | None], path: str) -> State:
    """The tensors of a checkpoint of this project under another project's names.

    Raises:
        InputError: naming those that the other project's model does not have.
    """
    names = {name: name_of(name) for name in state if not name.endswith(COUNTER)}
    unknown = sorted(name for name, other in names.items() if other is None)
    stem = state.get("backbone.stem.0.weight")
    if unknown or stem is None or stem.shape[-1] != 7:
        detail = f": nothing there is like {', '.join(unknown)}" if unknown else ""
        raise InputError(f"{path} is no Faster R-CNN of a ResNet, FPN and 2fc, which alone can be exported{detail}.")
    return {other: state[name] for name, other in names.items() if other is not None}


def run_export(export: Callable[[str, Path], Any], project: str, args: Sequence[str] | None) -> int:
    """The command that writes a checkpoint for another project; returns the exit code (2 for unusable input)."""
    parser = argparse.ArgumentParser(
        prog=f"python -m fpn_lightning.weights.{project}",
        description=f"Write the weights of a Faster R-CNN that `fit` has trained under {project}'s names.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a run, RUN/checkpoints/last.ckpt")
    parser.add_argument("output", metavar="OUT", type=Path, help="file to write")
    arguments = parser.parse_args(args)
    try:
        export(arguments.checkpoint, arguments.output)
    except InputError as error:
        return complain(error)
    print(f"written to {arguments.output}")
    return 0

"""What the checkpoints of all other projects have in common: names that differ, a model that they fit or do not."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from fpn_lightning.errors import InputError
from fpn_lightning.models.anchors import AnchorConvention, AnchorGenerator
from fpn_lightning.models.backbones.base import Convention
from fpn_lightning.stages.faster_rcnn import FasterRCNNStage
from fpn_lightning.weights.init_from import read_checkpoint

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # of BatchNorm; of no account where its statistics are fixed
# Parts that we have, too: what is left over of one belongs to a larger model. Of other heads (masks) it is not used.
PARTS = ("backbone.", "rpn.", "proposal_generator.", "roi_heads.box_head.", "roi_heads.box_predictor.")
SIZES = [[32.0 * 2**octave] for octave in range(5)]  # px, both projects' anchors on p2..p6


def read_tensors(path: str) -> State:
    """Tensors by name from a file of ``torch.save``, bare or under ``model`` as both projects' trainers write them.

    Raises:
        InputError: if it is no such file, or holds what :func:`checked` refuses; no code from it is run.
    """
    try:
        # torchvision's trainer saves its command line beside the model.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}, which no file of tensors needs" if asked else type(error).__name__
        raise InputError(f"model.init_from: {path} cannot be read ({reason}). Give a state dict of tensors.") from error
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise InputError(f"model.init_from: {path} is no state dict: a dictionary of tensors by name is expected.")
    return checked(state, path)


def checked(state: Mapping[Any, Any], path: str) -> State:
    """The same, if it is what a state dict can be.

    Raises:
        InputError: naming the first entry that is no dense tensor of finite real numbers by its name.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(f"model.init_from: {path} is no state dict: {name!r} is no tensor by its name.")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"model.init_from: {path}: {name} is no plain tensor of real numbers.")
        if not tensor.isfinite().all():
            raise InputError(f"model.init_from: {path}: {name} is not finite; the file is of a run that diverged.")
    return dict(state)


def renamed(name: str, prefixes: Mapping[str, str]) -> str | None:
    """A tensor's name with the first prefix that fits replaced; ``None`` where none does."""
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return None


def check_config(
    model: nn.Module,
    path: str,
    zoo: str,
    convention: Convention,
    anchor_convention: AnchorConvention,
    sampling_ratio: int,
    aligned: bool,
) -> FasterRCNNStage:
    """Refuse a configuration that computes something else than the weights were trained for.

    Args:
        model: the model they are for.
        path: of the weights, for messages.
        zoo: the configuration that fits, for messages.
        convention: of the trunk.
        anchor_convention: of the RPN.
        sampling_ratio: of RoIAlign.
        aligned: of RoIAlign.

    Returns:
        The model.

    Raises:
        InputError: naming every key that differs, its value and the one that fits.
    """
    if not isinstance(model, FasterRCNNStage):
        raise InputError(f"model.init_from: {path} is a Faster R-CNN, the model a {type(model).__name__}. Use {zoo}.")
    generator, pooler = model.rpn.anchor_generator, model.roi_heads.pooler
    facts: list[tuple[str, object, object]] = [
        ("backbone.convention", model.backbone.convention, convention),
        ("pyramid", type(model.pyramid).__name__, "FPN"),
        ("anchor_convention", generator.convention, anchor_convention),
        ("roi_pooler.op", pooler.op, "align"),
        ("roi_pooler.sampling_ratio", pooler.sampling_ratio, sampling_ratio),
        ("roi_pooler.aligned", pooler.aligned, aligned),
        ("canonical_size", pooler.canonical_size, 224),
        ("roi_pooler.canonical_level", pooler.canonical_level, 4),
        ("roi_pooler.max_level", pooler.max_level, 5),
        ("roi_heads.delta_weights", tuple(model.roi_heads.box_coder.weights), (10, 10, 5, 5)),
    ]
    wrong = [f"model.{key} is {found} and has to be {wanted}" for key, found, wanted in facts if found != wanted]
    if not wrong:
        fitting = AnchorGenerator(generator.strides, SIZES, convention=anchor_convention)
        pairs = zip(generator.buffers(), fitting.buffers(), strict=True)
        if not all(ours.shape == theirs.shape and torch.allclose(ours.cpu(), theirs) for ours, theirs in pairs):
            wrong = ["model.base_anchor_size, anchor_octaves, anchor_ratios have to give 32 to 512 px and 1:2 to 2:1"]
    if wrong:
        raise InputError(f"model.init_from: {path} does not fit: {'; '.join(wrong)}. Use {zoo}.")
    return model


def load_fitting(
    model: nn.Module,
    state: State,
    name_of: Callable[[str], str | None],
    convert: Callable[[str, Tensor], Tensor],
    path: str,
    zoo: str,
) -> None:
    """Load another project's tensors: each of the model's has to be there, and no other of the same parts.

    What is left over of other parts, as a mask head, is named.

    Args:
        model: whose tensors are set.
        state: theirs, under their names.
        name_of: our name to theirs.
        convert: our name and their tensor to ours.
        path: of the file, for messages.
        zoo: the configuration that fits, for messages.

    Raises:
        InputError: naming every tensor that is missing, left over or of another shape.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    theirs = {name: name_of(name) or f"(nothing like {name})" for name in own}
    if missing := sorted(other for other in theirs.values() if other not in state):
        raise InputError(f"model.init_from: {path} has no {', '.join(missing)}. Is it for this model? Use {zoo}.")
    found = {name: convert(name, state[theirs[name]]) for name in own}
    misfits = [
        f"{theirs[name]} gives {tuple(found[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if found[name].shape != own[name].shape
    ]
    if misfits:
        raise InputError(f"model.init_from: {path} does not fit: {'; '.join(misfits)}. Use {zoo}.")
    unused = sorted(name for name in state.keys() - set(theirs.values()) if not name.endswith(COUNTER))
    if deeper := [name for name in unused if name.startswith(PARTS)]:
        raise InputError(f"model.init_from: {path} is of a larger model: {', '.join(deeper)} left over. Use {zoo}.")
    model.load_state_dict(found, strict=False)  # not strict: counters of batches are not in `found`
    if unused:
        rank_zero_warn(f"model.init_from {path}: is not used: {', '.join(unused)}")


def read_own(path: str) -> tuple[State, list[int]]:
    """Tensors and category ids of a checkpoint of this project.

    Raises:
        InputError: if it is none.
    """
    checkpoint = read_checkpoint(path, "CHECKPOINT")
    return dict(checkpoint["state_dict"]), list(checkpoint.get("categories", {}).get("ids", ()))


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
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {arguments.output}")
    return 0

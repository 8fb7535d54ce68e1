"""Starting a detector from the weights of a checkpoint (``model.init_from``), which is not resuming a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from fpn_lightning.errors import InputError
from fpn_lightning.models.detector import Detector
from fpn_lightning.state_dicts import State, compare, listed
from fpn_lightning.weights import detectron2, torchvision
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint

OTHER_PROJECTS = {"torchvision": torchvision.load, "detectron2": detectron2.load}


def split_source(init_from: str) -> tuple[str | None, str]:
    """``torchvision:PATH`` or ``detectron2:PATH`` as project and path; a checkpoint of ours as ``None`` and path."""
    project, _, path = init_from.partition(":")
    return (project, path) if project in OTHER_PROJECTS else (None, init_from)


def check_fits(detector: Detector, state: State, named_by: str = "ckpt_path") -> None:
    """Reject the weights of another model before they are loaded as this one's (``--ckpt_path``).

    Args:
        detector: the model of the configuration.
        state: the checkpoint's tensors, by a detector's names.
        named_by: the option or the file, for messages.

    Raises:
        InputError: naming the first tensors that only one of them has, or that differ in shape.
    """
    if problems := compare(detector.state_dict(), state).problems:
        raise InputError(
            f"{named_by}: the checkpoint is of another model than this configuration: {listed(problems)}. Use "
            "the config.yaml of its run, or the row and the preset that it was trained with"
        )


def load_weights(detector: Detector, init_from: str, whole: Sequence[str] = ("backbone.",)) -> dict[str, Any]:
    """Load the weights of a checkpoint into a detector, running no code from it.

    Args:
        detector: whose parameters and buffers are set.
        init_from: checkpoint written by ``fit``, or another project's (:func:`split_source`).
        whole: prefixes of names; of these parts the checkpoint has to hold every tensor.

    Returns:
        The checkpoint, for what else it knows.

    Raises:
        InputError: if the file is missing or is not a checkpoint, or if a tensor's shape differs, or if nothing fits,
            or if one of ``whole`` is missing.
    """
    project, path = split_source(init_from)
    if project is not None:
        if not Path(path).is_file():
            raise InputError(f"model.init_from: {path} is not a file. Give {project}:PATH of a checkpoint.")
        return OTHER_PROJECTS[project](detector, path)
    checkpoint = read_checkpoint(path, "model.init_from")
    state = detector_state(checkpoint)
    found = compare(detector.state_dict(), state)
    if found.misshapen or not state.keys() & detector.state_dict().keys():
        detail = listed(found.misshapen) or "no tensor in common"
        raise InputError(f"model.init_from: {path} does not fit this configuration: {detail}")
    if absent := [name for name in found.missing if name.startswith(tuple(whole))]:
        of = "backbone" if absent[0].startswith("backbone.") else "pyramid"
        raise InputError(f"model.init_from: {path} has no {listed(absent)}: it is of another {of}.")
    detector.load_state_dict(
        {name: value for name, value in state.items() if name not in found.unexpected}, strict=False
    )
    for what, names in (("keeps its initial value", found.missing), ("is not used", found.unexpected)):
        if names:
            rank_zero_warn(f"model.init_from {path}: {what}: {listed(names)}")
    return checkpoint

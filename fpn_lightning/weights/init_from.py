"""Starting a model from the weights of a checkpoint (``model.init_from``), which is not resuming a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from fpn_lightning.errors import InputError

OTHER_PROJECTS = ("torchvision", "detectron2")


def split_source(init_from: str) -> tuple[str | None, str]:
    """``torchvision:PATH`` or ``detectron2:PATH`` as project and path; a checkpoint of ours as ``None`` and path."""
    project, _, path = init_from.partition(":")
    return (project, path) if project in OTHER_PROJECTS else (None, init_from)


def load_of_project(model: nn.Module, project: str, path: str) -> dict[str, Any]:
    """As :func:`load_weights`, from a checkpoint of ``torchvision`` or ``detectron2``, every tensor of the model.

    Raises:
        InputError: if the file is missing, or if it and the model do not fit each other.
    """
    # Here, since these modules know the stages, and those know this one.
    from fpn_lightning.weights import detectron2, torchvision

    if not Path(path).is_file():
        raise InputError(f"model.init_from: {path} is not a file. Give {project}:PATH of a checkpoint.")
    return detectron2.load(model, path) if project == "detectron2" else torchvision.load(model, path)


def read_checkpoint(path: str, named_by: str) -> dict[str, Any]:
    """Read a checkpoint of this project, running no code from it.

    Args:
        path: checkpoint written by ``fit``.
        named_by: the option that names it, for messages.

    Returns:
        What it holds; ``state_dict`` is there.

    Raises:
        InputError: if the file is missing or is no checkpoint.
    """
    if not Path(path).is_file():
        raise InputError(f"{named_by}: {path} is not a file. Give the path of a checkpoint.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"].keys()
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        raise InputError(
            f"{named_by}: {path} is no checkpoint of this project ({error}); those of others are named by "
            "torchvision:PATH or detectron2:PATH"
        ) from error
    return checkpoint


def check_fits(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse the weights of another model before they are loaded as this one's (``--ckpt_path``).

    Raises:
        InputError: naming the first tensors that only one of them has, or that differ in shape.
    """
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is not used" for name in state if name not in own]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"ckpt_path: the checkpoint is of another model than this configuration: {'; '.join(wrong[:3])}{more}. Use "
            "the config.yaml of its run, or the row and the preset that it was trained with"
        )


def load_weights(model: nn.Module, path: str, whole: Sequence[str] = ("backbone.",)) -> dict[str, Any]:
    """Load the weights of a checkpoint into a model, running no code from it.

    Args:
        model: whose parameters and buffers are set.
        path: checkpoint written by ``fit``, or another project's (:func:`split_source`).
        whole: prefixes of names; of these parts the checkpoint has to hold every tensor.

    Returns:
        The checkpoint, for what else it knows.

    Raises:
        InputError: if the file is missing or is no checkpoint, or if a tensor's shape differs, or if nothing fits,
            or if one of ``whole`` is missing.
    """
    project, file = split_source(path)
    if project is not None:
        return load_of_project(model, project, file)
    checkpoint = read_checkpoint(path, "model.init_from")
    state = checkpoint["state_dict"]
    own = model.state_dict()
    shared = own.keys() & state.keys()
    misfits = [name for name in sorted(shared) if own[name].shape != state[name].shape]
    if misfits or not shared:
        detail = ", ".join(f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}" for n in misfits[:5])
        raise InputError(f"model.init_from: {path} does not fit this configuration: {detail or 'no tensor in common'}")
    if absent := sorted(name for name in own.keys() - shared if name.startswith(tuple(whole))):
        of = "trunk" if absent[0].startswith("backbone.") else "feature design"
        raise InputError(f"model.init_from: {path} has no {', '.join(absent[:5])} …: it is of another {of}.")
    model.load_state_dict({name: state[name] for name in shared}, strict=False)
    for what, names in (("keeps its initial value", own.keys() - shared), ("is not used", state.keys() - shared)):
        if names:
            rank_zero_warn(f"model.init_from {path}: {what}: {', '.join(sorted(names))}")
    return checkpoint

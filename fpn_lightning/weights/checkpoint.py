"""Writing checkpoints of this project, and reading them without running code from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.files import whole_file
from fpn_lightning.state_dicts import State, checked, read_file

PREFIX = "detector."  # of a stage's tensors; older checkpoints lack it


def read_checkpoint(path: str, named_by: str) -> dict[str, Any]:
    """Read a checkpoint of this project, running no code from it.

    Args:
        path: checkpoint written by ``fit``.
        named_by: the option that names the file, for messages.

    Returns:
        The content of the file; ``state_dict`` has the names of a stage (see :func:`stage_state`).

    Raises:
        InputError: if the file is missing or is not a checkpoint, or if a tensor is not finite.
    """
    content = read_file(path, named_by)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise InputError(
            f"{named_by}: {path} is not a checkpoint of this project. Give RUN/checkpoints/last.ckpt; model.init_from "
            "also takes torchvision:PATH and detectron2:PATH."
        )
    return {**content, "state_dict": stage_state(checked(state, path, named_by))}


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, or a state dict for another project, whole or not at all.

    Raises:
        InputError: if it cannot be written; an earlier file stays as it was.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides why a write has failed
                raise error.__context__ from None
            raise


def stage_state(state: Mapping[str, Tensor]) -> State:
    """Name tensors as a stage does: the names of older checkpoints (``backbone.…``) get the prefix ``detector.``."""
    return {PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def detector_state(checkpoint: Mapping[str, Any]) -> State:
    """Return a checkpoint's tensors by the names of a :class:`fpn_lightning.models.detector.Detector`."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}

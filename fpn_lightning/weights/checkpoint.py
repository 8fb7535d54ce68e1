"""Writes checkpoints of this project, and reads them without running code from the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.files import whole_file
from fpn_lightning.state_dicts import State, checked, read_file

PREFIX = "detector."  # prefix of every tensor name in a stage's state dict; older checkpoints have no prefix


def read_checkpoint(path: str, named_by: str) -> dict[str, Any]:
    """Read a checkpoint that ``fit`` wrote, without running code from the file.

    :func:`stage_state` renames the tensors of older checkpoints. Error messages start with ``named_by``, the option
    whose value is ``path``.

    Raises:
        InputError: if the file is missing or is not a checkpoint, or if a tensor is not finite.
    """
    content = read_file(path, named_by)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise InputError(
            f"{named_by}: {path} is not a checkpoint of this project. Give a file such as RUN/checkpoints/last.ckpt; "
            "model.init_from also takes torchvision:PATH and detectron2:PATH."
        )
    return {**content, "state_dict": stage_state(checked(state, path, named_by))}


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, or a state dict for torchvision. If writing fails, a file at ``path`` stays unchanged.

    Raises:
        InputError: if the file cannot be written.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch.save replaced the OSError by a RuntimeError
                raise error.__context__ from None
            raise


def stage_state(state: Mapping[str, Tensor]) -> State:
    """Add the prefix ``detector.`` to the tensor names of older checkpoints (``backbone.…``), which lack it."""
    return {PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def detector_state(checkpoint: Mapping[str, Any]) -> State:
    """Remove the prefix ``detector.`` from a checkpoint's tensor names, to load the tensors into a ``Detector``."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}

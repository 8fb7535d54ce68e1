"""Checkpoints of this project: read without running code, by the names of a detector's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.state_dicts import State, read_file

PREFIX = "detector."  # of a stage's tensors; checkpoints from before stages held a detector have none


def read_checkpoint(path: str, named_by: str) -> dict[str, Any]:
    """Read a checkpoint of this project, running no code from it.

    Args:
        path: checkpoint written by ``fit``.
        named_by: the option that names it, for messages.

    Returns:
        What it holds; ``state_dict`` has the names of a stage (see :func:`stage_state`).

    Raises:
        InputError: if the file is missing or is not a checkpoint.
    """
    try:
        content = read_file(path, named_by)
        state = dict(content["state_dict"].items())
    except (InputError, AttributeError, KeyError, TypeError) as error:
        if isinstance(error, InputError) and "is not a file" in str(error):
            raise InputError(f"{error} Give the path of a checkpoint.") from error
        raise InputError(
            f"{named_by}: {path} is not a checkpoint of this project ({error}). Checkpoints of others are given as "
            "torchvision:PATH or detectron2:PATH."
        ) from error
    return {**content, "state_dict": stage_state(state)}


def stage_state(state: Mapping[str, Tensor]) -> State:
    """Tensors by a stage's names; those of older checkpoints (``backbone.…``) get the prefix ``detector.``."""
    return {PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def detector_state(checkpoint: Mapping[str, Any]) -> State:
    """A checkpoint's tensors by the names of a :class:`fpn_lightning.models.detector.Detector`."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}

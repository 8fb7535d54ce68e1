"""Reading checkpoints of this project without running code from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fpn_lightning.errors import InputError
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


def stage_state(state: Mapping[str, Tensor]) -> State:
    """Name tensors as a stage does: the names of older checkpoints (``backbone.…``) get the prefix ``detector.``."""
    return {PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def detector_state(checkpoint: Mapping[str, Any]) -> State:
    """Return a checkpoint's tensors by the names of a :class:`fpn_lightning.models.detector.Detector`."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}

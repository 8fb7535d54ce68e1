"""Published weights of backbones: fetch them from torchvision, rename them and compare them with the backbone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from fpn_lightning.errors import InputError
from fpn_lightning.state_dicts import State, compare, listed


def torchvision_weights(name: str, weights: str | None) -> WeightsEnum | None:
    """Return the member of torchvision's weights enum for a model, or ``None`` if ``weights`` is a path or ``None``."""
    return get_model_weights(name).__members__.get(weights)


def fetch_torchvision_state(weights: WeightsEnum) -> State:
    """Download weights of torchvision, or read them from torch's cache.

    Raises:
        InputError: if they are not cached and cannot be downloaded.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except OSError as error:  # the base class of urllib's errors
        raise InputError(
            f"model.detector.backbone: weights {weights.name} could not be fetched from {weights.url} ({error}). "
            f"Put the file into {torch.hub.get_dir()}/checkpoints, or give its path as backbone.weights."
        ) from error


def check_fit(model: Mapping[str, Tensor], file: Mapping[str, Tensor], source: str, name: str) -> None:
    """Check that names and shapes of a file's tensors are those of a model; BatchNorm's counters are ignored.

    Args:
        model: the model's tensors.
        file: the file's tensors, under the model's names.
        source: the file or the weights enum, for the message.
        name: the model's name, for the message.

    Raises:
        InputError: naming the missing, unexpected and wrongly shaped tensors.
    """
    if problems := compare(model, file).problems:
        raise InputError(
            f"model.detector.backbone: weights {source!r} do not fit {name}: {listed(problems)}. Use weights of this "
            "model."
        )


def load_torchvision(
    backbone: nn.Module, state: Mapping[str, Tensor], prefixes: Mapping[str, str | None], source: str, name: str
) -> None:
    """Load a state dict with torchvision's names into a backbone of a stem and stages.

    Args:
        backbone: the backbone to load into.
        state: torchvision's tensors.
        prefixes: torchvision's module names to ours; ``None`` for modules that the backbone does not have.
        source: the file or the weights enum, for messages.
        name: torchvision's name of the model, for messages.

    Raises:
        InputError: naming the tensors that do not fit.
    """
    renamed = {}
    for key, value in state.items():
        theirs = next((prefix for prefix in prefixes if key.startswith(f"{prefix}.")), None)
        if theirs is None:
            renamed[key] = value  # check_fit() names it as unexpected
        elif (ours := prefixes[theirs]) is not None:
            renamed[ours + key.removeprefix(theirs)] = value
    check_fit(backbone.state_dict(), renamed, source, name)
    backbone.load_state_dict(renamed, strict=False)  # BatchNorm's counters may be absent

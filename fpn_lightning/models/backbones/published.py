"""Published weights of backbones: fetched from torchvision, renamed, and compared with the backbone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from fpn_lightning.errors import InputError
from fpn_lightning.state_dicts import State, compare, listed


def torchvision_weights(name: str, weights: str | None) -> WeightsEnum | None:
    """Return the member of torchvision's weights enum that ``weights`` names for a model, ``None`` for a path."""
    return get_model_weights(name).__members__.get(weights)


def fetch_torchvision_state(weights: WeightsEnum) -> State:
    """Download weights of torchvision, or take them from torch's cache.

    Raises:
        InputError: if they are in neither place.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except OSError as error:  # urllib's errors are of this kind
        raise InputError(
            f"backbone: weights {weights.name} could not be fetched from {weights.url} ({error}). "
            f"Put the file into {torch.hub.get_dir()}/checkpoints, or give its path as backbone.weights."
        ) from error


def check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str, name: str) -> None:
    """Compare names and shapes; BatchNorm's counters of batches are left out.

    Args:
        wanted: the model's tensors.
        found: the file's tensors, under the model's names.
        source: where they are from, for the message.
        name: the model, for the message.

    Raises:
        InputError: naming the missing, unexpected and wrongly shaped tensors.
    """
    if problems := compare(wanted, found).problems:
        raise InputError(f"backbone: weights {source!r} do not fit {name}: {listed(problems)}")


def load_torchvision(
    backbone: nn.Module, state: Mapping[str, Tensor], prefixes: Mapping[str, str | None], source: str, name: str
) -> None:
    """Load a state dict with torchvision's names into a backbone that is cut differently.

    Args:
        backbone: whose tensors are set.
        state: torchvision's tensors.
        prefixes: torchvision's module name to ours; ``None`` for modules that a backbone does not have.
        source: where the state is from, for messages.
        name: torchvision's name of the model, for messages.

    Raises:
        InputError: naming the tensors that do not fit.
    """
    renamed = {}
    for key, value in state.items():
        theirs = next((prefix for prefix in prefixes if key.startswith(f"{prefix}.")), None)
        if theirs is None:
            renamed[key] = value  # check_fit() will name it
        elif (ours := prefixes[theirs]) is not None:
            renamed[ours + key.removeprefix(theirs)] = value
    check_fit(backbone.state_dict(), renamed, source, name)
    backbone.load_state_dict(renamed, strict=False)  # not strict: counters of batches may be absent

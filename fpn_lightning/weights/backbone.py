"""Pre-trained weights of trunks: fetching or reading them without running code, and fitting them to the last tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from fpn_lightning.errors import InputError


def torchvision_weights(name: str, weights: str | None) -> WeightsEnum | None:
    """Return the member of torchvision's weights enum that ``weights`` names for a model, ``None`` for a path."""
    return get_model_weights(name).__members__.get(weights)


def fetch_torchvision_state(weights: WeightsEnum) -> dict[str, Tensor]:
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


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Read a state dict of named tensors, running no code from the file.

    Args:
        path: file written by ``torch.save``, or with the ending ``.safetensors``.

    Raises:
        InputError: if it is no such file.
    """
    try:
        state = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        raise InputError(f"backbone: weights {path!r} cannot be read ({error}). Give a state dict.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"backbone: weights {path!r} is no state dict: a dictionary of tensors by name is expected.")
    return dict(state)


def check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str, name: str) -> None:
    """Compare names and shapes; BatchNorm's counters of batches are of no account.

    Args:
        wanted: the model's tensors.
        found: the file's tensors, under the model's names.
        source: where they are from, for the message.
        name: the model, for the message.

    Raises:
        InputError: naming the missing, unexpected and wrongly shaped tensors.
    """
    wanted, found = (
        {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        for state in (wanted, found)
    )
    problems = [f"missing {key}" for key in wanted.keys() - found.keys()]
    problems += [f"unexpected {key}" for key in found.keys() - wanted.keys()]
    problems += [
        f"shape of {key}: {tuple(found[key].shape)} in the file, {tuple(wanted[key].shape)} in the model"
        for key in wanted.keys() & found.keys()
        if found[key].shape != wanted[key].shape
    ]
    if problems:
        listing = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise InputError(f"backbone: weights {source!r} do not fit {name}: {listing}")


def load_torchvision(
    trunk: nn.Module, state: Mapping[str, Tensor], prefixes: Mapping[str, str | None], source: str, name: str
) -> None:
    """Load a state dict with torchvision's names into a trunk that is cut differently.

    Args:
        trunk: whose tensors are set.
        state: torchvision's tensors.
        prefixes: torchvision's module name to ours; ``None`` for modules that a trunk does not have.
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
    check_fit(trunk.state_dict(), renamed, source, name)
    trunk.load_state_dict(renamed, strict=False)  # not strict: counters of batches may be absent

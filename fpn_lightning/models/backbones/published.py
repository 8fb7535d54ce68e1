"""Download published weights of backbones from torchvision, and check that a file's tensors fit a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from fpn_lightning.errors import InputError
from fpn_lightning.state_dicts import State, compare, listed


def torchvision_weights(name: str, weights: str | None) -> WeightsEnum | None:
    """Return member ``weights`` of torchvision's weights enum for model ``name``; ``None`` if no such member exists."""
    return get_model_weights(name).__members__.get(weights)


def fetch_torchvision_state(weights: WeightsEnum) -> State:
    """Download weights of torchvision, or read them from torch's cache.

    Raises:
        InputError: if the weights are not in the cache and cannot be downloaded.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except OSError as error:  # base class of urllib's errors
        raise InputError(
            f"model.detector.backbone: weights {weights.name} could not be fetched from {weights.url} ({error}). "
            f"Put the file into {torch.hub.get_dir()}/checkpoints, or set backbone.weights to the path of the file."
        ) from error


def check_fit(model: Mapping[str, Tensor], file: Mapping[str, Tensor], source: str, name: str) -> None:
    """Check that a file's tensors have the names and shapes of a model's tensors; ignore ``num_batches_tracked``.

    Args:
        model: state dict of the model.
        file: the file's tensors, under the model's names.
        source: path of the file or member of the weights enum, for the message.
        name: name of the model, for the message.

    Raises:
        InputError: if names or shapes differ; the message lists missing, unexpected and wrongly shaped tensors.
    """
    if problems := compare(model, file).problems:
        raise InputError(
            f"model.detector.backbone: weights {source!r} do not fit {name}: {listed(problems)}. "
            "Use weights of this model."
        )

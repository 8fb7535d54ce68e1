"""Reads state dicts without running code from the file, and compares their tensors with the tensors of a model."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fpn_lightning.errors import InputError

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # a tensor of BatchNorm: unused if momentum is a number, and absent from old files
# Prefixes that DataParallel, torch.compile and LightningModules add to all tensor names of a model.
WRAPPERS = ("module.", "_orig_mod.", "model.", "detector.")
MAX_NAMES = 5  # maximum number of tensor names in one message


def read_file(path: str, named_by: str) -> Any:
    """Read a file of ``torch.save`` or safetensors into CPU memory, without running code from it.

    Error messages start with ``named_by``, the option that names the file.

    Raises:
        InputError: if the file is missing or damaged, or if it would run code.
    """
    if not Path(path).is_file():
        raise InputError(f"{named_by}: {path} is not a file. Check the path.")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        # A checkpoint of torchvision's training script also contains the script's arguments as a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load may raise any exception for a damaged file
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"loading it would run {asked[1]}, but a file of tensors does not need to run code"
            if asked
            else "it is damaged or has no weights"
        )
        raise InputError(
            f"{named_by}: {path} cannot be read ({reason}). Give a checkpoint or a state dict of tensors."
        ) from error


def read_state_dict(path: str, named_by: str) -> State:
    """Read a state dict from a file.

    The state dict is the entry ``model`` (torchvision, detectron2) or ``state_dict`` (Lightning) of the file,
    or the whole file.

    Raises:
        InputError: see :func:`read_file` and :func:`checked`.
    """
    state = read_file(path, named_by)
    if isinstance(state, Mapping):
        state = next((state[key] for key in ("model", "state_dict") if key in state), state)
    if not isinstance(state, Mapping):
        raise InputError(f"{named_by}: {path} is not a state dict. Give a file with a dictionary of tensors by name.")
    return unwrapped(checked(state, path, named_by), path, named_by)


def unwrapped(state: Mapping[str, Tensor], path: str, named_by: str) -> State:
    """Remove prefixes in ``WRAPPERS`` that all tensor names share, and warn that the prefixes were removed."""
    left_out = ""
    while state and (prefix := next((w for w in WRAPPERS if all(name.startswith(w) for name in state)), "")):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        left_out += prefix
    if left_out:
        warnings.warn(f"{named_by} {path}: the prefix {left_out} was removed from all tensor names", stacklevel=2)
    return dict(state)


def checked(state: Mapping[Any, Any], path: str, named_by: str) -> State:
    """Check that a mapping is a state dict, which maps names to dense tensors of finite real numbers.

    Raises:
        InputError: if an entry is invalid. The message names the first invalid entry.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{named_by}: {path} is not a state dict: entry {name!r} is not a tensor with a string as its key."
            )
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"{named_by}: {path}: {name} is not a dense tensor of real numbers.")
        if not tensor.isfinite().all():
            raise InputError(
                f"{named_by}: {path}: {name} has values that are not finite, because the run has diverged. "
                "Use an earlier checkpoint."
            )
    return dict(state)


@dataclass(frozen=True)
class Comparison:
    """Differences between the tensors of a file and the tensors of a model.

    Names are sorted. BatchNorm's ``num_batches_tracked`` is not compared.
    """

    missing: list[str]
    """Names of tensors that only the model has."""
    unexpected: list[str]
    """Names of tensors that only the file has."""
    misshapen: list[str]
    """One text for each tensor whose shapes differ: ``NAME is (2, 3) in the file, (4, 3) in the model``."""

    @property
    def problems(self) -> list[str]:
        """All differences as text; empty if all tensors fit."""
        return [
            *(f"{name} is missing" for name in self.missing),
            *(f"{name} is not used" for name in self.unexpected),
            *self.misshapen,
        ]


def compare(model: Mapping[str, Tensor], file: Mapping[str, Tensor]) -> Comparison:
    """Compare the names and shapes of tensors in a model and in a file. Both mappings use the model's names."""
    ours = {name: tuple(tensor.shape) for name, tensor in model.items() if not name.endswith(COUNTER)}
    theirs = {name: tuple(tensor.shape) for name, tensor in file.items() if not name.endswith(COUNTER)}
    return Comparison(
        missing=sorted(ours.keys() - theirs.keys()),
        unexpected=sorted(theirs.keys() - ours.keys()),
        misshapen=[
            f"{name} is {theirs[name]} in the file, {ours[name]} in the model"
            for name in sorted(ours.keys() & theirs.keys())
            if theirs[name] != ours[name]
        ],
    )


def listed(names: list[str]) -> str:
    """Join the first ``MAX_NAMES`` names, and add the number of further names."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more

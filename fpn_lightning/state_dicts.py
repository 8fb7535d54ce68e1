"""State dicts: read from files without running code, checked, and compared with a model. In one place.

Backbones, checkpoints of this project and those of others all come through here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fpn_lightning.errors import InputError

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # BatchNorm's; unused where its momentum is a number, and absent in older files
MOST_NAMES = 5  # tensors named in one message


def read_file(path: str, named_by: str) -> Any:
    """What ``torch.save`` or safetensors wrote; code in the file is not run.

    Args:
        path: the file; tensors are read to the CPU.
        named_by: the option that names it, for messages.

    Raises:
        InputError: if it is missing, is cut off, or asks for code.
    """
    if not Path(path).is_file():
        raise InputError(f"{named_by}: {path} is not a file.")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        # torchvision's trainer saves its command line beside the model.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}, which no file of tensors needs" if asked else type(error).__name__
        raise InputError(f"{named_by}: {path} cannot be read ({reason}). Give a state dict of tensors.") from error


def read_state_dict(path: str, named_by: str) -> State:
    """Tensors by name, bare or under ``model``, as the trainers of torchvision and detectron2 write them.

    Raises:
        InputError: see :func:`read_file` and :func:`checked`.
    """
    content = read_file(path, named_by)
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise InputError(f"{named_by}: {path} is not a state dict: a dictionary of tensors by name is expected.")
    return checked(state, path, named_by)


def checked(state: Mapping[Any, Any], path: str, named_by: str) -> State:
    """The same, if it is what a state dict can be.

    Raises:
        InputError: naming the first entry that is not a dense tensor of finite real numbers under a name.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(f"{named_by}: {path} is not a state dict: {name!r} is not a tensor under a name.")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            raise InputError(f"{named_by}: {path}: {name} is not a dense tensor of real numbers.")
        if not tensor.isfinite().all():
            raise InputError(f"{named_by}: {path}: {name} is not finite; the file is from a run that diverged.")
    return dict(state)


@dataclass(frozen=True)
class Comparison:
    """How a file's tensors differ from a model's; names sorted, BatchNorm's counters left out."""

    missing: list[str]
    """Names that only the model has."""
    unexpected: list[str]
    """Names that only the file has."""
    misshapen: list[str]
    """Sentences, ``NAME is (2, 3) in the file, (4, 3) in the model``."""

    @property
    def problems(self) -> list[str]:
        """All differences as text; empty if every tensor fits."""
        return [
            *(f"{name} is missing" for name in self.missing),
            *(f"{name} is not used" for name in self.unexpected),
            *self.misshapen,
        ]


def compare(model: Mapping[str, Tensor], file: Mapping[str, Tensor]) -> Comparison:
    """Compare names and shapes of a model's tensors with those of a file, given under the model's names."""
    wanted = {name: tensor.shape for name, tensor in model.items() if not name.endswith(COUNTER)}
    found = {name: tensor.shape for name, tensor in file.items() if not name.endswith(COUNTER)}
    return Comparison(
        missing=sorted(wanted.keys() - found.keys()),
        unexpected=sorted(found.keys() - wanted.keys()),
        misshapen=[
            f"{name} is {tuple(found[name])} in the file, {tuple(wanted[name])} in the model"
            for name in sorted(wanted.keys() & found.keys())
            if found[name] != wanted[name]
        ],
    )


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more

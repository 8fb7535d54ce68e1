"""Loads initial weights from a checkpoint (``model.init_from``), and checks the checkpoint given as ``--ckpt_path``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from fpn_lightning.errors import InputError
from fpn_lightning.models.detector import Detector
from fpn_lightning.state_dicts import WRAPPERS, Comparison, State, compare, listed, unwrapped
from fpn_lightning.weights import detectron2, torchvision
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint
from fpn_lightning.weights.others import PREDICTOR, say_what_starts_afresh

OTHER_PROJECTS = {"torchvision": torchvision.load, "detectron2": detectron2.load}


def split_source(init_from: str) -> tuple[str | None, str]:
    """Split ``torchvision:PATH`` or ``detectron2:PATH`` into project and path; project is ``None`` for other paths.

    For published weights (``torchvision:COCO_V1``), return the path of the downloaded file in torch's cache.
    """
    project, _, path = init_from.partition(":")
    if project not in OTHER_PROJECTS:
        return None, init_from
    cached = torchvision.published(path) if project == "torchvision" else None
    return project, str(cached or path)


def fetch_weights(init_from: str) -> None:
    """Download the weights if ``init_from`` names published weights (``torchvision:COCO_V1``)."""
    project, _, name = init_from.partition(":")
    if project == "torchvision":
        torchvision.fetch(name)


def parts(detector: Detector) -> dict[str, str]:
    """Return the names of the Python classes of backbone and pyramid.

    A checkpoint stores these class names, because modules of different classes can have parameters with the same names
    and shapes.
    """
    return {name: type(getattr(detector, name)).__name__ for name in ("backbone", "pyramid")}


def other_parts(detector: Detector, checkpoint: Mapping[str, Any]) -> list[str]:
    """Describe differences between the Python classes of backbone and pyramid in the checkpoint and in the detector.

    The returned list is empty for older checkpoints, because they do not store the class names.
    """
    own, stored = parts(detector), checkpoint.get("parts") or {}
    return [
        f"{name} is {stored[name]} in the file, {own[name]} in the model"
        for name in own
        if stored.get(name, own[name]) != own[name]
    ]


def check_fits(detector: Detector, checkpoint: Mapping[str, Any], named_by: str = "ckpt_path") -> None:
    """Check that a checkpoint belongs to the model of the configuration. Error messages start with ``named_by``.

    Raises:
        InputError: if a tensor is missing, unused or of another shape, or if backbone or pyramid has another
            Python class.
    """
    state = detector_state(checkpoint)
    if prefix := next((prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in state)), None):
        raise InputError(
            f"{named_by}: all tensor names of the checkpoint start with {prefix}, the prefix of a wrapped model. "
            "train.py fit does not write such checkpoints. To start a run from these weights: --model.init_from PATH"
        )
    problems = compare(detector.state_dict(), state).problems
    if problems := problems or other_parts(detector, checkpoint):
        raise InputError(
            f"{named_by}: the checkpoint belongs to another model than this configuration: {listed(problems)}. Use "
            "the config.yaml of the checkpoint's run, or the row's config file (such as configs/table1/c_fpn.yaml) and "
            "the preset that the checkpoint was trained with."
        )


def load_weights(
    detector: Detector, init_from: str, required: Sequence[str] = ("backbone.",), new_classes: bool = False
) -> dict[str, Any]:
    """Load the weights of a checkpoint into a detector, without running code from it.

    Args:
        detector: the model to load into.
        init_from: checkpoint written by ``fit``, or weights of another project (see :func:`split_source`).
        required: prefixes of tensor names. The checkpoint must contain all tensors of the detector with these prefixes.
            Another project's file must contain all tensors of the detector.
        new_classes: do not load the class predictor, because the data set has other classes.

    Returns:
        The content of the checkpoint; for another project's file, a dictionary with only the key ``categories``.

    Raises:
        InputError: if the file is missing or is not a checkpoint, if a tensor has another shape, if no tensor fits, or
            if a required tensor is missing.
    """
    fetch_weights(init_from)
    project, path = split_source(init_from)
    if project is not None:
        if not Path(path).is_file():
            name = ", or torchvision:COCO_V1" if project == "torchvision" else ""
            raise InputError(f"model.init_from: {path} is not a file. Give the path of a file, {project}:PATH{name}.")
        return OTHER_PROJECTS[project](detector, path, new_classes)
    checkpoint = read_checkpoint(path, "model.init_from")
    state = unwrapped(detector_state(checkpoint), path, "model.init_from")
    if new_classes:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(PREDICTOR)}
        say_what_starts_afresh(path)
    comparison = compare(detector.state_dict(), state)
    _check_shapes(detector, state, comparison, path)
    if absent := [name for name in comparison.missing if name.startswith(tuple(required))]:
        part = absent[0].partition(".")[0]
        raise InputError(
            f"model.init_from: {path} lacks tensors of this configuration's {part}: {listed(absent)}. Use a checkpoint "
            f"with the same {part}."
        )
    if other := other_parts(detector, checkpoint):
        rank_zero_warn(f"model.init_from {path} belongs to another model: {', '.join(other)}")
    detector.load_state_dict(
        {name: value for name, value in state.items() if name not in comparison.unexpected}, strict=False
    )
    missing = [name for name in comparison.missing if not (new_classes and name.startswith(PREDICTOR))]
    for what, names in (("keep their initial values", missing), ("are not used", comparison.unexpected)):
        if names:
            rank_zero_warn(f"model.init_from {path}: these tensors {what}: {listed(names)}")
    return checkpoint


def _check_shapes(detector: Detector, state: State, comparison: Comparison, path: str) -> None:
    """Raise InputError if a tensor has another shape in the file, or if the file has none of the detector's tensors."""
    if not state.keys() & detector.state_dict().keys():
        raise InputError(
            f"model.init_from: {path} has no tensor of this configuration's model. The file contains "
            f"{listed(sorted(state))}. For weights of torchvision or detectron2, give torchvision:PATH or "
            "detectron2:PATH."
        )
    if not (wrong := comparison.misshapen):
        return
    if all(text.startswith(PREDICTOR) for text in wrong):
        raise InputError(
            f"model.init_from: {path} has another number of classes than this configuration: {listed(wrong)}. "
            "To load all other weights and train a new class predictor: --model.new_classes true."
        )
    raise InputError(
        f"model.init_from: {path} does not fit this configuration: {listed(wrong)}. Give a checkpoint of a model "
        "with the same backbone, preset and number of channels."
    )

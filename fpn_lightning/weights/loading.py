"""Loads a trained model and its image settings from a run, a checkpoint or another project's weights."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.files import read_yaml
from fpn_lightning.models.detector import Detector
from fpn_lightning.parser import Parser
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint
from fpn_lightning.weights.init_from import OTHER_PROJECTS, check_fits, load_weights

ZOO = Path(__file__).parents[1] / "zoo"
OBJECT = Categories((1,), ("object",))  # the only category of proposals, which have no class


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        detector: the detector with trained weights.
        data: data module that defines how images are resized and padded; it has not read any data.
        categories: ids and names of the labels; a single category ``object`` if the model predicts proposals.
        precision: ``trainer.precision`` of the configuration.
    """

    detector: Detector
    data: COCODataModule
    categories: Categories
    precision: str


def load_model(source: str, config: str | Path | None = None) -> Model:
    """Load an RPN or a Faster R-CNN; see :func:`fpn_lightning.load`.

    Args:
        source: a run directory, a checkpoint, ``torchvision:PATH`` or ``detectron2:PATH``.
        config: the configuration file. The default is ``config.yaml`` of the checkpoint's run or, for the weights
            of torchvision and detectron2, the configuration of the same name in ``zoo/``.

    Raises:
        InputError: if no model can be loaded from the source.
    """
    project = source.partition(":")[0]
    theirs = project in OTHER_PROJECTS
    checkpoint = Path() if theirs else checkpoint_of(Path(source))
    if config is None:
        config = ZOO / f"{project}_r50_fpn.yaml" if theirs else _config_of(checkpoint)
    content = read_yaml(Path(config))
    detector, data = _built(content, Path(config))
    if detector.rpn is None:
        kind = "a model for mask proposals" if detector.masks is not None else "a Fast R-CNN on fixed proposals"
        raise InputError(
            f"{source} is {kind}. Only an RPN or a Faster R-CNN can be loaded. To predict with this model, use "
            "train.py predict."
        )
    if theirs:
        loaded = load_weights(detector, source)
    else:
        loaded = read_checkpoint(str(checkpoint), "SOURCE")
        check_fits(detector, loaded, str(checkpoint))
        detector.load_state_dict(detector_state(loaded))
    categories, heads = OBJECT, detector.roi_heads
    if heads is not None:
        categories = Categories(*map(tuple, loaded.get("categories", {"ids": (), "names": ()}).values()))
        if len(categories) != heads.num_classes:
            raise InputError(
                f"{source} has {len(categories)} categories, but the model has {heads.num_classes} classes. Give a "
                "checkpoint written by train.py fit, and the config.yaml of the same run."
            )
    return Model(detector, data, categories, str((content.get("trainer") or {}).get("precision") or "32-true"))


def checkpoint_of(source: Path) -> Path:
    """Return the checkpoint of a run directory. If ``source`` is a file, return ``source``.

    Raises:
        InputError: if there is no checkpoint.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise InputError(
            f"{source} is neither a folder nor a file. Give a run directory, a checkpoint, torchvision:PATH or "
            "detectron2:PATH."
        )
    if not (source / "config.yaml").is_file():
        raise InputError(f"{source} is not a run directory: it has no config.yaml. Give runs/PRESET/TABLE/ROW/seedN.")
    checkpoint = source / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        others = sorted(checkpoint.parent.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        overwrite = " --experiment.overwrite true" if (source / "metrics.json").exists() else ""
        train = f"Train first: python train.py fit --config {shlex.quote(str(source / 'config.yaml'))}{overwrite}"
        instead = f"Give another checkpoint of the run, for example {others[-1]}." if others else train
        raise InputError(f"{source} has no checkpoint ({checkpoint.relative_to(source)}). {instead}")
    return checkpoint


def _config_of(checkpoint: Path) -> Path:
    """Return the ``config.yaml`` of a checkpoint's run. It is in the checkpoint's folder or one folder above."""
    for folder in (checkpoint.parent, checkpoint.absolute().parent.parent):
        if (config := folder / "config.yaml").is_file():
            return config
    raise InputError(
        f"{checkpoint}: there is no config.yaml in the checkpoint's folder or one folder above. Give the config.yaml "
        "of the checkpoint's run: load(..., config='RUN/config.yaml') in Python, --config RUN/config.yaml in commands."
    )


def _built(content: Any, config: Path) -> tuple[Detector, COCODataModule]:
    """Build the detector and the data module of a configuration without reading data."""
    try:
        detector = dict(content["model"]["init_args"]["detector"])
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{config} has no model.init_args.detector. Give the config.yaml of a run.") from None
    given = content.get("data") or {}
    data = {"root": "", **given, "predict_split": None, "predict_path": None} if isinstance(given, Mapping) else given
    parser = Parser()
    parser.add_class_arguments(Detector, "model.detector")
    parser.add_class_arguments(COCODataModule, "data")
    parser.link_arguments("data.num_classes", "model.detector.num_classes")
    try:
        built = parser.instantiate_classes(parser.parse_object({"model": {"detector": detector}, "data": data}))
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    return built.model.detector, built.data

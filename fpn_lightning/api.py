"""The Python interface: ``fpn_lightning.load(SOURCE).predict(images)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins import DoublePrecision, MixedPrecision, Precision
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from torch import Tensor
from torchvision.ops import box_convert

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.data.dataset import Sample
from fpn_lightning.data.images import MAX_PIXELS, read_image, upright_pixels
from fpn_lightning.data.transforms import resize
from fpn_lightning.errors import InputError
from fpn_lightning.files import read_yaml
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.predictions.detections import DEFAULT_TOP_K
from fpn_lightning.runs.checkpoints import newest_checkpoint
from fpn_lightning.runs.parser import Parser
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.evaluated import ExactBatches
from fpn_lightning.stages.fast_rcnn import NO_PROPOSALS, FastRCNNStage
from fpn_lightning.structures import RLE, DetectionsOrig, ProposalsOrig
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint
from fpn_lightning.weights.init_from import OTHER_PROJECTS, check_fits, load_weights

ZOO = Path(__file__).parent / "zoo"
OBJECT = Categories((1,), ("object",))  # of proposals, which have no class
PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed")
ImageLike = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one image, best first; tensors are on the CPU.

    Attributes:
        boxes: float64 ``(D, 4)`` xyxy, pixels of the image, inside it.
        scores: float64 ``(D,)`` in [0, 1], descending.
        labels: int64 ``(D,)`` in [0, K); 0 for proposals.
        category_ids: D ids of the data set's categories; 1 for proposals.
        names: D names of categories; ``object`` for proposals.
        masks: D masks as large as the image, of a run of Table 6; empty for all others.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    category_ids: list[int]
    names: list[str]
    masks: list[RLE] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scores)


class Predictor:
    """A model with its weights, its categories and the preparation of its images; :func:`load` makes it.

    Args:
        stage: the model, with its weights.
        data: says how images are resized and padded.
        categories: ids and names of the labels; those of proposals for an RPN.
        device: see :func:`load`.
        precision: see :func:`load`.

    Attributes:
        detector: the :class:`fpn_lightning.Detector`, in evaluation mode, on ``device``.
        categories: ids and names of the labels.
        device: where the model runs.
    """

    def __init__(
        self, stage: BaseStage, data: COCODataModule, categories: Categories, device: torch.device, precision: str
    ) -> None:
        self.categories = categories
        self.device = device
        self._data = data
        self._precision = _precision(precision, device)
        self._stage: Any = self._precision.convert_module(stage.to(device).eval().requires_grad_(False))
        self.detector = stage.detector

    def predict(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int | None = None, top_k: int | None = None
    ) -> list[Prediction]:
        """Predict objects in images, with the same numbers as ``train.py predict --data.predict_path``.

        Args:
            images: one image, or a sequence of them: image files, images of Pillow, or uint8 arrays ``(H, W, 3)`` RGB.
                The orientation tag of files and of Pillow's images is applied, so boxes are in pixels of the image as
                a viewer shows it.
            batch_size: images of one forward pass; by default the run's ``data.eval_batch_size``, 1 in most. Padding
                to the size of another image changes numbers a little.
            top_k: results of an image, best first; by default the best 100 boxes, or all masks.

        Returns:
            A list with one prediction per image, in order; also for a single image. An empty sequence gives an empty
            list.

        Raises:
            InputError: an image cannot be used; the message names it and says what to do.
        """
        single = isinstance(images, (str, Path, Image.Image, np.ndarray))
        every: Sequence[Any] = [images] if single else list(images)  # type: ignore[arg-type]
        batch_size = self._data.eval_batch_size if batch_size is None else batch_size
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it has to be at least 1")
        predictions = []
        for start in range(0, len(every), batch_size):
            group = enumerate(every[start : start + batch_size], start)
            batch = self._data.collate([self._sample(image, place) for place, image in group]).to(self.device)
            with torch.inference_mode(), self._precision.forward_context():
                results = self._stage.predict_step(batch, 0)
            predictions += [self._prediction(result, top_k) for result in results]
        return predictions

    def _sample(self, image: Any, place: int) -> Sample:
        pixels = _pixels(image, f"images[{place}]")
        height, width = pixels.shape[:2]
        geometry = self._data.transform.evaluation_geometry((height, width))
        return Sample(resize(pixels, geometry), geometry, place)

    def _prediction(self, result: DetectionsOrig | ProposalsOrig | MaskProposalsOrig, top_k: int | None) -> Prediction:
        masks: list[RLE] = []
        if isinstance(result, MaskProposalsOrig):
            masks = result.masks[:top_k]
            boxes = torch.from_numpy(coco_masks.toBbox(masks).reshape(-1, 4)) if masks else torch.zeros(0, 4).double()
            boxes, scores = box_convert(boxes, "xywh", "xyxy"), result.scores.double().sigmoid()[:top_k]
        else:
            top_k = DEFAULT_TOP_K if top_k is None else top_k
            boxes = result.boxes_orig[:top_k]
        if isinstance(result, ProposalsOrig):
            scores = result.objectness[:top_k].double().sigmoid()
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        if isinstance(result, DetectionsOrig):
            scores, labels = result.scores[:top_k].double(), result.labels[:top_k]
        ids, names = self.categories.ids, self.categories.names
        places = labels.tolist()
        return Prediction(boxes, scores, labels, [ids[k] for k in places], [names[k] for k in places], masks)


def load(
    source: str | Path,
    *,
    config: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> Predictor:
    """Load a model for predictions.

    No code is run from the file of weights. A configuration names classes, which are imported: take it from a source
    that you trust.

    Args:
        source: a run directory, whose last checkpoint is used; a checkpoint of a run; ``torchvision:PATH`` or
            ``torchvision:COCO_V1``; or ``detectron2:PATH``.
        config: the model's configuration, by default the ``config.yaml`` of the checkpoint's run, or that of the zoo
            for the weights of another project.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; by default an accelerator, if there is one.
        precision: ``32-true``, ``bf16-mixed``, ... as in ``trainer.precision``; by default that of the configuration.

    Raises:
        InputError: the source cannot be used; the message says what to do.
    """
    name = str(source)
    project = name.partition(":")[0]
    theirs = project in OTHER_PROJECTS
    checkpoint = Path() if theirs else _checkpoint(Path(source))
    if config is None:
        config = ZOO / f"{project}_r50_fpn.yaml" if theirs else _config_of(checkpoint)
    content = read_yaml(Path(config))
    stage, data = _built(content, Path(config))
    if isinstance(stage, FastRCNNStage):
        raise InputError(f"{name} cannot predict from images alone. {NO_PROPOSALS}")
    if theirs:
        loaded = load_weights(stage.detector, name)
    else:
        loaded = read_checkpoint(str(checkpoint), "load")
        check_fits(stage.detector, loaded, str(checkpoint))
        stage.detector.load_state_dict(detector_state(loaded))
    categories = OBJECT
    if stage.detector.roi_heads is not None:
        categories = Categories(*map(tuple, loaded.get("categories", {"ids": (), "names": ()}).values()))
        if len(categories) != stage.detector.roi_heads.num_classes:
            raise InputError(
                f"{name} names {len(categories)} categories, but the model has {stage.detector.roi_heads.num_classes} "
                "classes. Give a checkpoint that fit wrote, and the configuration of its run."
            )
    precision = precision or str((content.get("trainer") or {}).get("precision") or "32-true")
    return Predictor(stage, data, categories, _device(device), precision)


def _checkpoint(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise InputError(
            f"{source} is neither a folder nor a file. Give a run directory, a checkpoint, torchvision:PATH or "
            "detectron2:PATH."
        )
    if not (source / "config.yaml").is_file():
        raise InputError(f"{source} is not a run directory: it has no config.yaml. Give runs/PRESET/TABLE/ROW/seedN.")
    if not (checkpoint := newest_checkpoint(source)).is_file():
        raise InputError(
            f"{source} has no checkpoint (checkpoints/last.ckpt). Train first: python train.py fit --config "
            f"{source / 'config.yaml'} --experiment.overwrite true"
        )
    return checkpoint


def _config_of(checkpoint: Path) -> Path:
    """The configuration of a checkpoint's run, which lies beside the checkpoint or above its folder."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (config := folder / "config.yaml").is_file():
            return config
    raise InputError(
        f"{checkpoint} has no configuration: there is no config.yaml beside it or above its folder. Give the one of "
        "its run: load(..., config='RUN/config.yaml')."
    )


def _built(content: Any, config: Path) -> tuple[BaseStage, COCODataModule]:
    """Build the model and the data module of a configuration; neither reads any data."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise InputError(f"{config} has no model. Give the config.yaml of a run.")
    data = {"root": "", **(content.get("data") or {}), "predict_split": None, "predict_path": None}
    parser = Parser()
    parser.add_lightning_class_args(BaseStage, "model", subclass_mode=True)
    parser.add_lightning_class_args(COCODataModule, "data")
    parser.link_arguments("data.num_classes", "model.init_args.detector.num_classes")
    try:
        built = parser.instantiate_classes(parser.parse_object({"model": content["model"], "data": data}))
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    return built.model, built.data


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device is {device}, which cannot be used here ({reason}). Give cpu, cuda or cuda:1."
        ) from error
    return chosen


def _precision(name: str, device: torch.device) -> Precision:
    """Return the trainer's own plugin, so that the numbers are the command line's."""
    name = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}.get(name, name)
    if name not in PRECISIONS:
        raise InputError(f"precision is {name}; it has to be one of {', '.join(PRECISIONS)}")
    if name == "64-true":
        return DoublePrecision()
    if name.endswith("-mixed"):
        return MixedPrecision(name, device.type)  # type: ignore[arg-type]
    return Precision() if name == "32-true" else ExactBatches(name)  # type: ignore[arg-type]


def _pixels(image: Any, name: str) -> NDArray[np.uint8]:
    """Return an image as uint8 ``(H, W, 3)`` RGB, contiguous.

    Raises:
        InputError: it cannot be used.
    """
    if isinstance(image, (str, Path)):
        if Path(image).is_dir():
            raise InputError(
                f"{name}: {image} is a folder. Give its files: sorted(Path({str(image)!r}).glob('*.jpg'))."
            )
        return read_image(image, upright=True)
    if isinstance(image, Image.Image):
        return upright_pixels(image, name)
    wanted = "Give a file, an image of Pillow, or a uint8 array (height, width, 3) in the order RGB"
    if not isinstance(image, np.ndarray):
        raise InputError(f"{name} is a {type(image).__name__}. {wanted}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not 0 < image.size <= 3 * MAX_PIXELS:
        raise InputError(
            f"{name} is a {image.dtype} array of shape {image.shape}. {wanted}; Image.fromarray(array) takes grey and "
            "RGBA arrays too, and several images are a list."
        )
    return np.ascontiguousarray(image)

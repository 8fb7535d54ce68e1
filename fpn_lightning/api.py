"""The Python interface for predictions: ``fpn_lightning.load(SOURCE).predict(images)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins import DoublePrecision, MixedPrecision, Precision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fpn_lightning.data.dataset import Sample
from fpn_lightning.data.images import MAX_PIXELS, read_image, upright_pixels
from fpn_lightning.data.transforms import resize
from fpn_lightning.errors import InputError
from fpn_lightning.models.detector import Detector
from fpn_lightning.predictions.detections import DEFAULT_TOP_K
from fpn_lightning.stages.evaluated import ExactBatches
from fpn_lightning.structures import Detections, DetectionsOrig, ImageBatch, Proposals, ProposalsOrig
from fpn_lightning.weights.loading import Model, load_model

PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed")
ImageLike = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """Predictions for one image, sorted by descending score. All tensors are on the CPU.

    The D boxes are detections, or proposals if the model is an RPN. K is the number of classes.

    Attributes:
        boxes: float64 ``(D, 4)`` xyxy, pixels of the image, clipped to the image.
        scores: float64 ``(D,)`` in [0, 1], descending.
        labels: int64 ``(D,)`` class indices in [0, K); 0 for proposals.
        category_ids: COCO ``category_id`` of the class of each box; 1 for proposals.
        names: category name of each box; ``object`` for proposals.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    category_ids: list[int]
    names: list[str]

    def __len__(self) -> int:
        return len(self.scores)


class Predictor:
    """A trained detector that predicts objects in images. :func:`load` returns a ``Predictor``.

    Args:
        model: the trained detector, its image settings and its categories.
        device: where the detector runs.
        precision: see :func:`load`.
        compile: see :func:`load`.

    Attributes:
        detector: the :class:`fpn_lightning.Detector`, in evaluation mode, on ``device``.
        categories: ids and names of the labels.
        device: where the detector runs.
    """

    def __init__(self, model: Model, device: torch.device, precision: str | None = None, compile: bool = False) -> None:
        self.categories = model.categories
        self.device = device
        self._data = model.data
        self._precision = _precision(precision or model.precision, device)
        self.detector: Detector = model.detector.to(device).eval().requires_grad_(False)
        self._precision.convert_module(self.detector)
        if compile:
            self.detector.compile_maps(constant_weights=True)

    def predict(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int | None = None, top_k: int = DEFAULT_TOP_K
    ) -> list[Prediction]:
        """Predict objects in images. The results equal those of ``train.py predict --data.predict_path``.

        Args:
            images: one image or a sequence of images. An image is a file, a Pillow image, or a uint8 array
                ``(H, W, 3)`` RGB. Files and Pillow images are turned upright by their EXIF data, so boxes are in pixels
                of the image as image viewers show it.
            batch_size: number of images per forward pass; by default the run's ``data.eval_batch_size``, which is 1 in
                most configs. Images of one batch are padded to the same size, which changes the results slightly.
            top_k: maximum number of boxes per image. The boxes with the highest scores are returned.

        Returns:
            A list with one prediction per image, in the order of the images. For a single image, the list has one item.

        Raises:
            InputError: if an image cannot be used. The message names the image.
        """
        single = isinstance(images, (str, Path, Image.Image, np.ndarray))
        every: Sequence[Any] = [images] if single else list(images)  # type: ignore[arg-type]
        batch_size = self._data.eval_batch_size if batch_size is None else batch_size
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value < 1:
                raise InputError(f"{name} is {value}; it has to be at least 1")
        predictions: list[Prediction] = []
        for start in range(0, len(every), batch_size):
            group = enumerate(every[start : start + batch_size], start)
            batch = self._data.collate([self._sample(image, place) for place, image in group]).to(self.device)
            with torch.inference_mode(), self._precision.forward_context():
                results = self._results(batch.images)
            for geometry, result in zip(batch.images.geometries, results, strict=True):
                predictions.append(self._prediction(result.to_orig(geometry, len(predictions)), top_k))
        return predictions

    def _results(self, images: ImageBatch) -> Sequence[Proposals | Detections]:
        if self.detector.roi_heads is None:
            return self.detector.propose(images)
        return self.detector.propose_and_detect(images)[1]

    def _sample(self, image: Any, place: int) -> Sample:
        pixels = _pixels(image, f"images[{place}]")
        height, width = pixels.shape[:2]
        geometry = self._data.transform.evaluation_geometry((height, width))
        return Sample(resize(pixels, geometry), geometry, place)

    def _prediction(self, result: DetectionsOrig | ProposalsOrig, top_k: int) -> Prediction:
        labels = torch.zeros(len(result), dtype=torch.int64)
        if isinstance(result, DetectionsOrig):
            scores, labels = result.scores.double(), result.labels
        else:
            scores = result.objectness.double().sigmoid()
        labels = labels[:top_k]
        ids, names = ([values[k] for k in labels.tolist()] for values in (self.categories.ids, self.categories.names))
        return Prediction(result.boxes_orig[:top_k], scores[:top_k], labels, ids, names)


def load(
    source: str | Path,
    *,
    config: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    compile: bool = False,
) -> Predictor:
    """Load a model for predictions.

    Loading weights never runs code from the file. A configuration can run code, because it names classes to import, so
    load only configurations that you trust.

    Args:
        source: a run directory, whose last checkpoint is used; a checkpoint of a run; ``torchvision:PATH``;
            ``torchvision:COCO_V1``; or ``detectron2:PATH``.
        config: configuration file of the model. The default is ``config.yaml`` of the checkpoint's run. For weights of
            torchvision or detectron2, the default is a file in ``zoo/``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; by default an accelerator, or the CPU if there is none.
        precision: ``32-true``, ``bf16-mixed``, ...; by default the run's ``trainer.precision``.
        compile: compile backbone and pyramid with ``torch.compile`` at the first image, once for all image sizes. Do
            not change the weights after the first image, because the compiled code treats them as constants.

    Raises:
        InputError: if the source cannot be used. The message says what to do.
    """
    return Predictor(load_model(str(source), config), _device(device), precision, compile)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device is {device}, which this machine cannot use ({reason}). Give cpu, cuda or cuda:1."
        ) from error
    return chosen


def _precision(name: str, device: torch.device) -> Precision:
    """Return the same precision plugin as the command line, so that a ``Predictor`` gives the same predictions."""
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
        InputError: if the image cannot be used.
    """
    if isinstance(image, (str, Path)):
        if Path(image).is_dir():
            raise InputError(
                f"{name}: {image} is a folder. Give its files: sorted(Path({str(image)!r}).glob('*.jpg'))."
            )
        return read_image(image, upright=True)
    if isinstance(image, Image.Image):
        return upright_pixels(image, name)
    wanted = "Give a file, a Pillow image, or an RGB array of dtype uint8 and shape (height, width, 3)"
    if not isinstance(image, np.ndarray):
        raise InputError(f"{name} is a {type(image).__name__}. {wanted}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not 0 < image.size <= 3 * MAX_PIXELS:
        raise InputError(
            f"{name} is a {image.dtype} array of shape {image.shape}. {wanted}. For a grey or RGBA array, "
            "give Image.fromarray(array). For several images, give a list."
        )
    return np.ascontiguousarray(image)

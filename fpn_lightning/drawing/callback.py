"""A callback that draws predictions on a few images of every validation and test, and on the images of ``predict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import nn

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.data.dataset import COCODataset
from fpn_lightning.data.image_folder import ImageFolder
from fpn_lightning.drawing.feature_maps import feature_maps_of
from fpn_lightning.drawing.figure import draw_figure, png
from fpn_lightning.drawing.image import Prediction, draw_image
from fpn_lightning.errors import InputError
from fpn_lightning.files import set_aside, write_whole
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.structures import Batch, DetectionsOrig
from fpn_lightning.text import show

FOLDER = "pictures"
VALIDATION_IMAGES = 4


class PictureCallback(Callback):
    """Draws predictions, ground truth and feature maps of images.

    After each evaluation of ``fit``, ``validate`` and ``test``, the first process draws a few images of the split,
    preferably images that contain small, medium and large objects. The files are
    ``<output>/pictures/step<step>/<image id>.png``. Loggers with a method ``log_image`` also log the pictures. For
    drawing, the images are read and the predictions are computed a second time. Drawing changes neither metrics nor
    random state. Predictions are not drawn if the model has untrained heads.

    ``predict`` writes the pictures to ``<run>/predict/pictures/``: ``<file name>.png`` for the images of a folder,
    ``<image id>.png`` for the images of a split. The pictures show the predictions that the
    subcommand has already computed. Only the feature maps are computed in a second forward pass.

    Args:
        num_images: maximum number of pictures for each evaluation and for ``predict``; 0 draws no pictures. ``None``
            draws 4 pictures for each evaluation, and all images in ``predict``.
        top_k: maximum number of predictions drawn in an image, best first.
        of_splits: in ``predict``, also draw the images of a split (``data.predict_split``). By default, only the
            images of a folder (``data.predict_path``) are drawn.
        score_thresh: draw only detections with a score above this threshold, in [0, 1]. Proposals are drawn regardless
            of their scores.

    Raises:
        InputError: ``num_images`` is below 0, ``top_k`` is below 1 or ``score_thresh`` is outside [0, 1].
    """

    def __init__(
        self, num_images: int | None = None, top_k: int = 30, of_splits: bool = False, score_thresh: float = 0.0
    ) -> None:
        if num_images is not None and num_images < 0:
            raise InputError(f"pictures.num_images is {num_images}; it has to be at least 0 (0: no pictures)")
        if top_k < 1:
            raise InputError(f"pictures.top_k is {top_k}; it has to be at least 1")
        if not 0 <= score_thresh <= 1:
            raise InputError(f"pictures.score_thresh is {score_thresh}; it has to be in [0, 1]")
        self.num_images = num_images
        self.top_k = top_k
        self.of_splits = of_splits
        self.score_thresh = score_thresh
        self._checkpoint_step = 0
        self._remaining = 0  # pictures that this process may still draw in predict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the training step of the loaded checkpoint, because the trainer knows this step only in ``fit``."""
        self._checkpoint_step = checkpoint["global_step"]

    def _draw(
        self,
        stage: BaseStage,
        batch: Batch,
        index: int,
        prediction: Prediction,
        image: NDArray[np.uint8],
        title: str,
        untrained: bool = False,
    ) -> bytes:
        """Draw image ``index`` of a batch as a PNG. ``image``: pixels of the image file, uint8 ``(H, W, 3)`` RGB."""
        images = batch.images.only(index)
        truth = batch.ground_truths[index] if batch.ground_truths else None
        maps = {name: features[0] for name, features in stage.detector(images).items()}
        top_k = 0 if untrained else self.top_k
        if isinstance(prediction, DetectionsOrig):
            top_k = min(top_k, int((prediction.scores > self.score_thresh).sum()))
        levels = [int(name.removeprefix("p")) for name in maps]
        drawn = draw_image(image, prediction, top_k, levels, stage.categories.names, truth)
        title = f"{title}, {image.shape[1]} x {image.shape[0]} px"
        feature_maps = feature_maps_of(maps, stage.detector.pyramid.strides, images.geometries[0].size)
        return png(draw_figure(title, drawn, feature_maps, truth is not None))

    # ---- fit, validate, test ---------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw validation images."""
        self._draw_split(trainer, pl_module, trainer.val_dataloaders, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw test images."""
        self._draw_split(trainer, pl_module, trainer.test_dataloaders, "test")

    def _draw_split(self, trainer: Trainer, stage: LightningModule, loader: Any, prefix: str) -> None:
        dataset = getattr(loader, "dataset", None)
        wanted = VALIDATION_IMAGES if self.num_images is None else self.num_images
        if wanted == 0 or not trainer.is_global_zero or trainer.sanity_checking:
            return
        if not (isinstance(dataset, COCODataset) and isinstance(stage, BaseStage)):
            return
        step = max(trainer.global_step, self._checkpoint_step)
        folder = Path(trainer.default_root_dir) / FOLDER / f"step{step}"
        for old in folder.glob("*.png"):
            old.unlink()
        untrained = step == 0 and (stage.init_from is None or stage.new_classes)
        paths = []
        with _evaluating(stage), trainer.precision_plugin.forward_context():
            for place in varied_places(dataset, stage.detector.scale.area_thresholds, wanted):
                sample = dataset[place, 0]
                batch = loader.collate_fn([sample]).to(stage.device)
                (prediction,) = stage.predict_step(batch, 0)
                image, name = dataset.pixels_orig(sample.image_id), dataset.file_name(sample.image_id)
                title = f"step {step}{' (untrained)' if untrained else ''}, image {sample.image_id}: {name}"
                paths.append(folder / f"{sample.image_id}.png")
                write_whole(paths[-1], self._draw(stage, batch, 0, prediction, image, title, untrained))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                names = [f"image {path.stem}" for path in paths]
                logger.log_image(f"{prefix}/pictures", [str(path) for path in paths], step=step, caption=names)

    # ---- predict ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before ``predict``, divide the pictures among the processes, and rename the folder of earlier pictures."""
        data: COCODataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "predict" or (data.predict_path is None and not self.of_splits):
            return
        limit = len(data.prediction_images) if self.num_images is None else self.num_images
        self._remaining = len(range(trainer.global_rank, limit, trainer.world_size))
        if trainer.is_global_zero:
            # Pictures of an earlier ``predict`` may show other images, so the new pictures go into an empty folder.
            set_aside(Path(trainer.default_root_dir) / FOLDER)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Sequence[Prediction],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the predictions of a batch."""
        outputs = outputs[: self._remaining]
        if not outputs or not isinstance(pl_module, BaseStage):
            return
        images = trainer.datamodule.prediction_images  # type: ignore[attr-defined]
        with _evaluating(pl_module), trainer.precision_plugin.forward_context():
            for index, prediction in enumerate(outputs):
                title = images.file_name(prediction.image_id)
                name = title if isinstance(images, ImageFolder) else prediction.image_id
                picture = self._draw(
                    pl_module, batch, index, prediction, images.pixels_orig(prediction.image_id), title
                )
                write_whole(Path(trainer.default_root_dir) / FOLDER / f"{name}.png", picture)
        self._remaining -= len(outputs)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After ``predict``, print the folder of the pictures."""
        if stage != "predict" or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        drawn = self.of_splits or trainer.datamodule.predict_path is not None  # type: ignore[attr-defined]
        if drawn and any(folder.rglob("*.png")):
            show(f"pictures in {folder}")


def varied_places(dataset: COCODataset, area_thresholds: tuple[float, float], count: int) -> list[int]:
    """Return at most ``count`` indices of images: first the images with objects of three size classes, then of two.

    The size classes are small, medium and large. Crowd regions are ignored. Images with the same number of size classes
    stay in the order of the data set.

    Args:
        dataset: the images of a split.
        area_thresholds: px², the area that separates small from medium objects, and the area that separates medium from
            large objects.
        count: maximum number of indices.
    """
    classes = []
    for row in dataset.places.tolist():
        objects = dataset.index.objects_of(row)
        classes.append(len(np.unique(np.searchsorted(area_thresholds, objects.areas[~objects.is_crowd], side="right"))))
    return np.argsort(-np.asarray(classes), kind="stable")[:count].tolist()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In a ``with`` block, use evaluation mode without gradients; afterwards, restore the mode of each submodule."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training

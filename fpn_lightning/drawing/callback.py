"""Pictures while a run goes on: of the same few images at every validation, and of what ``predict`` finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.data.dataset import COCODataset
from fpn_lightning.data.image_folder import ImageFolder
from fpn_lightning.drawing.marks import Result
from fpn_lightning.drawing.model import draw_example, draw_result, evaluating
from fpn_lightning.drawing.names import picture_names
from fpn_lightning.drawing.sheet import png
from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.predictions.detections import PredictionWriter
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.structures import Batch

FOLDER = "pictures"
VALIDATION_IMAGES = 4


class PictureCallback(PredictionWriter):
    """Draws what was found in an image and its feature maps, in pixels of the image file.

    ``fit``, ``validate`` and ``test``: at each evaluation the first images of the split by id go into
    ``<output>/pictures/step<step>/<image id>.png``, and in one call to every logger that takes images. They are read
    and predicted for the purpose by the first process; metrics and random state do not notice.

    ``predict``: every image of a folder goes into ``<run>/predict/pictures/<its name>.png``, one of a split into
    ``<image id>.png``. What was predicted is drawn; only the maps take a forward pass of their own.

    Args:
        num_images: most pictures of one evaluation or of one ``predict``; 0 draws none. By default 4 of an
            evaluation, and all of a ``predict``.
        top_k: boxes drawn in an image, best first.
        of_splits: draw the images of ``data.predict_split`` too, not only those of ``data.predict_path``.

    Raises:
        InputError: ``num_images`` is below 0 or ``top_k`` below 1.
    """

    def __init__(self, num_images: int | None = None, top_k: int = 30, of_splits: bool = False) -> None:
        if num_images is not None and num_images < 0:
            raise InputError(f"pictures.num_images is {num_images}; it has to be at least 0 (0: no pictures)")
        if top_k < 1:
            raise InputError(f"pictures.top_k is {top_k}; it has to be at least 1")
        self.num_images = num_images
        self.top_k = top_k
        self.of_splits = of_splits
        self._checkpoint_step = 0
        self._names: dict[int, str] | None = None  # of the pictures of a folder, by image id
        self._left = 0  # how many pictures this process may still draw in predict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the step of the weights, which the trainer counts only in ``fit``."""
        self._checkpoint_step = checkpoint["global_step"]

    # ---- fit, validate, test ---------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the first validation images."""
        self._draw_examples(trainer, pl_module, trainer.val_dataloaders, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the first test images."""
        self._draw_examples(trainer, pl_module, trainer.test_dataloaders, "test")

    def _draw_examples(self, trainer: Trainer, stage: LightningModule, loader: Any, prefix: str) -> None:
        dataset = getattr(loader, "dataset", None)
        wanted = VALIDATION_IMAGES if self.num_images is None else self.num_images
        if wanted == 0 or not trainer.is_global_zero or trainer.sanity_checking:
            return
        if not (isinstance(dataset, COCODataset) and isinstance(stage, BaseStage)):
            return
        step = max(trainer.global_step, self._checkpoint_step)
        folder = _cleared(Path(trainer.default_root_dir) / FOLDER / f"step{step}")
        paths = []
        with evaluating(stage), trainer.precision_plugin.forward_context():
            for place in range(min(wanted, len(dataset))):
                picture = draw_example(
                    stage, dataset, loader.collate_fn, place, stage.device, f"step {step}", self.top_k
                )
                paths.append(folder / f"{dataset.index.image_ids[dataset.places[place]]}.png")
                write_whole(paths[-1], png(picture))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                names = [f"image {path.stem}" for path in paths]
                logger.log_image(f"{prefix}/pictures", [str(path) for path in paths], step=step, caption=names)

    # ---- predict ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before ``predict``: name the pictures, share them out among the processes, remove those of another time."""
        if stage != "predict":
            return
        data: COCODataModule = trainer.datamodule  # type: ignore[attr-defined]
        if data.predict_path is None and not self.of_splits:
            return
        images = data.prediction_images
        if isinstance(images, ImageFolder):
            self._names = dict(enumerate(picture_names(images.file_names), start=1))
        most = len(images) if self.num_images is None else self.num_images
        self._left = len(range(trainer.global_rank, most, trainer.world_size))
        if trainer.is_global_zero:
            _cleared(Path(trainer.default_root_dir) / FOLDER)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Sequence[Result],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the results of a batch, up to this process's share."""
        if self._left == 0 or not isinstance(pl_module, BaseStage):
            return
        images = trainer.datamodule.prediction_images  # type: ignore[attr-defined]
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            for index, result in enumerate(outputs[: self._left]):
                name = self._names[result.image_id] if self._names is not None else f"{result.image_id}.png"
                pixels = images.pixels_orig(result.image_id)
                title = images.file_name(result.image_id)
                picture = draw_result(
                    pl_module.detector, pl_module.categories, batch, index, result, pixels, title, self.top_k
                )
                write_whole(Path(trainer.default_root_dir) / FOLDER / name, png(picture))
        self._left -= len(outputs[: self._left])

    def finish(self, trainer: Trainer, data: COCODataModule) -> None:
        """Say where the pictures are."""
        folder = Path(trainer.default_root_dir) / FOLDER
        if trainer.is_global_zero and (data.predict_path is not None or self.of_splits) and any(folder.glob("*.png")):
            Console().print(f"pictures in {folder}", soft_wrap=True)


def _cleared(folder: Path) -> Path:
    """Remove the pictures that lie in a folder."""
    for old in folder.glob("*.png"):
        old.unlink()
    return folder

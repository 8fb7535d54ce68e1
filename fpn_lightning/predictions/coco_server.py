"""Writes the result file for COCO's evaluation server when ``test`` runs on a split without annotations (Table 4)."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.predictions.result_file import ResultFile, detection_lines
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.structures import Batch, DetectionsOrig
from fpn_lightning.text import show

TOP_K = 100  # detections per image in COCO's evaluation


class ServerFileWriter(Callback):
    """Writes ``detections_<split>_<algorithm>_results.json``, with the name and the format that the server requires.

    The file is a list of ``{image_id, category_id, bbox, score}``, ordered by image id, with the best 100 detections
    of each image. If the split has annotations, ``test`` evaluates the detections itself and writes no file.

    Args:
        algorithm: name of the algorithm in the file name. Underscores become hyphens, because the server splits file
            names at underscores.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm.replace("_", "-").replace("/", "-")
        self._file: ResultFile | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open this process's part of the result file."""
        data: COCODataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "test" and not data.has_annotations("test"):
            name = f"detections_{data.test_split}_{self.algorithm}_results.json"
            self._file = ResultFile(Path(trainer.default_root_dir) / name, trainer.global_rank)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, list[DetectionsOrig]] | None,  # type: ignore[override]  # Lightning expects tensors
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the detections of a batch."""
        if self._file is not None and outputs is not None:
            assert isinstance(pl_module, BaseStage)
            for detections in outputs["detections"]:
                self._file.write(detections.image_id, detection_lines(detections, TOP_K, pl_module.categories))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Delete this process's part of the result file."""
        if self._file is not None:
            self._file.discard()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Merge the parts of all processes into the result file.

        Raises:
            InputError: an image of the split has no results. The server needs results for all images of the split.
        """
        if self._file is None:
            return
        data: COCODataModule = trainer.datamodule  # type: ignore[attr-defined]
        num_images = data.describe("test")["num_images"]
        self._file.complete(trainer, num_images=num_images)
        if trainer.is_global_zero:
            show(f"detections of {num_images} images written to {self._file.path}")
        self._file = None

"""``test`` on a split without annotations: the result file that COCO's evaluation server scores (FPN Table 4)."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.predictions.detections import PredictionWriter
from fpn_lightning.predictions.result_file import ResultFile, detection_lines
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.structures import Batch, DetectionsOrig

MOST = 100  # detections of an image that COCO's evaluation counts


class ServerFileWriter(PredictionWriter):
    """Writes ``detections_<split>_<algorithm>_results.json``, the name and the format that the server asks for.

    A list of ``{image_id, category_id, bbox, score}``, image by image, at most 100 an image, best first. Nothing is
    written for a split with annotations, which is scored here.

    Args:
        algorithm: its name; the server parts a file's name at underscores, so the name gets hyphens for them.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm.replace("_", "-").replace("/", "-")
        self._file: ResultFile | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open this process's own file."""
        data: COCODataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "test" and not data.has_annotations("test"):
            name = f"detections_{data.test_split}_{self.algorithm}_results.json"
            self._file = ResultFile(Path(trainer.default_root_dir) / name, trainer.global_rank)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, list[DetectionsOrig]] | None,  # type: ignore[override]  # Lightning: of tensors
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the detections of a batch."""
        if self._file is not None and outputs is not None:
            assert isinstance(pl_module, BaseStage)
            for found in outputs["detections"]:
                self._file.write(found.image_id, detection_lines(found, MOST, pl_module.categories))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half file."""
        if self._file is not None:
            self._file.discard()

    def finish(self, trainer: Trainer, data: COCODataModule) -> None:
        """Merge the files of all processes.

        Raises:
            InputError: if an image of the split is missing, since the server scores the whole split.
        """
        if self._file is None:
            return
        num_images = data.describe("test")["num_images"]
        self._file.complete(trainer, num_images=num_images)
        if trainer.is_global_zero:
            Console().print(f"detections of {num_images} images written to {self._file.path}", soft_wrap=True)
        self._file = None

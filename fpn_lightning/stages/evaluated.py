"""Base class for validation and test: compares predictions with ground truth, and logs the metrics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.recall_metrics import Recall
from fpn_lightning.structures import Batch, Detections, DetectionsOrig, ImageBatch, Proposals

Values = dict[str, float | None]


class ExactBatches(HalfPrecision):
    """Precision plugin for ``bf16-true`` and ``16-true`` that keeps boxes in float32.

    In half precision, rounding would move boxes by whole pixels.
    """

    def convert_input(self, data: Any) -> Any:
        """Return the batch unchanged. The backbone converts the uint8 pixels to half precision."""
        return data


class EvaluatedStage(LightningModule):
    """Base class that evaluates predictions with the metrics that the subclass registers.

    Attributes:
        evaluation: metrics of the last evaluation, fractions in [0, 1]; ``None`` for a metric without ground truth.
        per_class: AP by category name in the last evaluation, best first; empty if the stage does not measure AP.
        evaluated_images: number of images in the last evaluation.
        evaluated_step: number of optimiser steps taken before the last evaluation.
    """

    recall_of = "proposals, class-agnostic"
    """Text under the printed table of metrics: which predictions AR evaluates, and how it treats classes."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluation: Values = {}
        self.per_class: Values = {}
        self.categories = Categories((), ())
        self.evaluated_images = 0
        self.evaluated_step: int | None = None

    def setup(self, stage: str) -> None:
        """Keep boxes in float32 if the trainer runs in half precision."""
        if isinstance(plugin := self.trainer.precision_plugin, HalfPrecision):
            self.trainer.strategy.precision_plugin = ExactBatches(plugin.precision)

    def predict(self, batch: Batch) -> Sequence[Proposals | Detections]:
        """Return the proposals or detections of each image, best first; boxes are in pixels of the network input."""
        raise NotImplementedError

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Any]:
        """Return the proposals or detections of each image, best first; boxes are in pixels of the image file."""
        return to_orig(batch.images, self.predict(batch))

    def evaluate_batch(self, batch: Batch) -> None:
        """Predict a batch and add the predictions to the stage's metric.

        A stage with several metrics overrides this method.
        """
        (metric,) = self.metrics
        for prediction, ground_truth in zip(self.predict_step(batch, 0), batch.ground_truths, strict=True):
            metric.update(prediction, ground_truth)

    @property
    def metrics(self) -> list[Recall | AveragePrecision]:
        """The metrics that the subclass has registered, in the order of registration."""
        return [part for part in self.children() if isinstance(part, Recall | AveragePrecision)]

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """Return the metrics over the images of all processes, and the number of images in this process."""
        values: Values = {}
        for metric in self.metrics:
            values |= metric.compute()
        return values, self.metrics[0].num_images

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that an evaluation computes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics warns that no image has been added
            names = list(self.evaluation_result()[0])
        for metric in self.metrics:
            metric.reset()
        return names

    @property
    def data(self) -> COCODataModule | None:
        """The run's data module; ``None`` if there is no trainer, or if the trainer was given data loaders."""
        datamodule = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        return datamodule if isinstance(datamodule, COCODataModule) else None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics.

        Raises:
            InputError: if the split has no annotations.
        """
        if not batch.ground_truths:
            raise _nothing_to_score("val")
        self.evaluate_batch(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics under ``val/``."""
        self._finish_evaluation("val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[DetectionsOrig]] | None:
        """Add a batch to the metrics, or return its detections if the split has no annotations.

        Returns:
            ``{"detections": ...}`` if the split has no annotations (for an evaluation server), else ``None``.

        Raises:
            InputError: if the split has no annotations and the stage does not predict detections.
        """
        if batch.ground_truths:
            self.evaluate_batch(batch)
            return None
        predictions = self.predict_step(batch, batch_idx)
        if not all(isinstance(prediction, DetectionsOrig) for prediction in predictions):
            raise _nothing_to_score("test")
        return {"detections": predictions}

    def on_test_epoch_end(self) -> None:
        """Log the metrics under ``test/`` if the split has annotations."""
        if self.data is None or self.data.has_annotations("test"):
            self._finish_evaluation("test")

    def _finish_evaluation(self, prefix: str) -> None:
        """Store and log the metrics.

        In the log, a metric's name starts with ``prefix``, or with ``<prefix>_partial`` if not all images were
        evaluated.
        """
        values, num_images = self.evaluation_result()
        total = self.trainer.strategy.reduce(num_images.clone(), reduce_op="sum")
        self.evaluation, self.evaluated_images, self.evaluated_step = values, int(total), self.global_step
        names = dict(enumerate(self.categories.names))
        self.per_class = next((m.per_class(names) for m in self.metrics if isinstance(m, AveragePrecision)), {})
        split_size = self.data.describe(prefix)["num_images"] if self.data is not None else self.evaluated_images
        if self.evaluated_images != split_size:
            if not self.trainer.sanity_checking:
                rank_zero_warn(
                    f"{self.evaluated_images} of {split_size} images were evaluated. Metrics are logged as "
                    f"{prefix}_partial/…"
                )
            prefix += "_partial"
        defined = {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
        self.log_dict(defined, logger=False, sync_dist=True)  # for callbacks
        if not self.trainer.sanity_checking:
            # Log the number of optimiser steps taken. By default, Lightning would log this number minus 1.
            for logger in self.loggers:
                logger.log_metrics(defined, step=self.global_step)
        for metric in self.metrics:
            metric.reset()


def to_orig(images: ImageBatch, predictions: Sequence[Proposals | Detections]) -> list[Any]:
    """Convert the predictions of a batch to ``ProposalsOrig`` or ``DetectionsOrig`` on the CPU, in the same order."""
    sources = zip(predictions, images.geometries, images.image_ids.tolist(), strict=True)
    return [prediction.to_orig(geometry, image_id) for prediction, geometry, image_id in sources]


def _nothing_to_score(prefix: str) -> InputError:
    return InputError(
        f"data.{prefix}_split has no annotations, so there is nothing to score. Choose a split with annotations."
    )

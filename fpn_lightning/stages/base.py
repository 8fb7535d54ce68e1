"""What all stages share: optimiser, schedule, batch contract, logging, and stopping on numbers that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.proposal_recall import Recall
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.stages.total_batch import keep_total_batch
from fpn_lightning.structures import Batch, Detections, DetectionsOrig, ImageBatch, Proposals
from fpn_lightning.weights.checkpoint import detector_state, stage_state
from fpn_lightning.weights.init_from import check_fits, load_weights

Values = dict[str, float | None]
NOTHING_TO_SCORE = "this split has no annotations, so there is nothing to score; choose another data.*_split"


class BaseStage(LightningModule):
    """Training and evaluation around a detector; subclasses say what is lost, predicted and measured.

    A subclass defines :meth:`losses` and :meth:`predict`, and registers its metric.

    Args:
        detector: the model; the pre-trained weights of its backbone are loaded when training starts.
        heads: the heads of the detector that the subclass uses.
        optimization: optimiser and schedule.
        init_from: checkpoint whose *weights* the model starts from (training starts at step 0); resuming a run is
            ``--ckpt_path``.
        seed: the run's seed, linked from ``seed_everything``; sampling is a function of it, the step and the image id.
        freeze_shared: keep backbone and pyramid as ``init_from`` has them, and train the head alone: steps 3 and 4 of
            the training that shares features (Faster R-CNN §3.2; FPN §5.2, Table 5).

    Attributes:
        resumes: set by whoever passes ``ckpt_path`` to the trainer, so that no weights are fetched in vain.
        evaluation: metrics of the last complete evaluation pass, fractions, ``None`` where undefined.
        evaluated_images: how many images it saw.
        categories: ids and names, from the data set or else from the checkpoint.

    Raises:
        InputError: a head that is missing or not used, or ``freeze_shared`` without ``init_from``.
    """

    def __init__(
        self,
        detector: Detector,
        heads: Sequence[str],
        optimization: Optimization,
        init_from: str | None = None,
        seed: int = 0,
        freeze_shared: bool = False,
    ) -> None:
        super().__init__()
        detector.require(type(self).__name__, *heads)
        if freeze_shared and init_from is None:
            raise InputError(
                "model.freeze_shared keeps what model.init_from loads: name the checkpoint of the step before"
            )
        self.detector = detector
        self.optimization = optimization
        self.init_from = init_from
        self.seed = seed
        self.freeze_shared = freeze_shared
        self.resumes = False
        self._initialized = False
        self.evaluation: Values = {}
        self.evaluated_images = 0
        self.categories = Categories((), ())
        self._step_image_ids: list[Tensor] = []
        self._step_losses: list[dict[str, Tensor]] = []

    # ---- what subclasses provide -----------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The training losses of a batch: scalars that are summed and logged under their names."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Sequence[Proposals | Detections]:
        """One prediction for each image of a batch, network-input pixels, best first."""
        raise NotImplementedError

    # ---- what follows from them ------------------------------------------------------------------------------------

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Any]:
        """One prediction for each image of a batch, in pixels of the image file, best first."""
        return to_orig(batch.images, self.predict(batch))

    def evaluate_batch(self, batch: Batch) -> None:
        """Predict a batch and add it to the metric."""
        (metric,) = self.metrics
        for prediction, ground_truth in zip(self.predict_step(batch, 0), batch.ground_truths, strict=True):
            metric.update(prediction, ground_truth)

    @property
    def metrics(self) -> list[Recall | AveragePrecision]:
        """The metrics that the subclass has registered, in order."""
        return [part for part in self.children() if isinstance(part, Recall | AveragePrecision)]

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """The metrics over all images added, of all processes together, and how many this process added."""
        values: Values = {}
        for metric in self.metrics:
            values |= metric.compute()
        return values, self.metrics[0].num_images

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """The detector's maps: ``{"p2": (N, d, H_2, W_2), ...}``."""
        return self.detector(images)

    def sampling_seeds(self, batch: Batch) -> Tensor:
        """One seed for each image, int64 ``(N,)``, for the sampling of anchors, RoIs and cells in this step."""
        return image_seeds(self.seed, self.global_step, batch.images.image_ids)

    # ---- start of training -----------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fetch trunk weights once for all processes."""
        if self.trainer.state.fn == "fit" and not self.resumes and self.init_from is None:
            self.detector.backbone.download_weights()

    def setup(self, stage: str) -> None:
        """Load the initial weights, name the labels, make devices × per-device × accumulation equal the total batch.

        Raises:
            InputError: if weights do not fit, or if the trainer was told to accumulate otherwise.
        """
        if self.data is not None and self.data.category_ids:
            self.categories = Categories(self.data.category_ids, self.data.category_names)
        # Once only: the validation that ends `fit` comes here again, with a model that has been trained.
        if self.init_from is not None and not self.resumes and not self._initialized:
            whole = ("backbone.", "pyramid.") if self.freeze_shared else ("backbone.",)
            checkpoint = load_weights(self.detector, self.init_from, whole)
            self.check_origin(checkpoint)
            self.take_categories(checkpoint)
            self._initialized = True
        if stage != "fit":
            return
        if self.freeze_shared:
            for part in (self.detector.backbone, self.detector.pyramid):
                part.requires_grad_(False)
            self.train(self.training)
        self.detector.backbone.check_declared(64, 96)
        if self.init_from is None and not self.resumes:
            self.detector.backbone.load_weights()
        if self.data is not None:
            self.optimization = keep_total_batch(self.trainer, self.data, self.optimization)

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; frozen parts stay in evaluation mode, or live BatchNorm would still drift there."""
        super().train(mode)
        if self.freeze_shared:
            self.detector.backbone.eval()
            self.detector.pyramid.eval()
        return self

    @property
    def data(self) -> COCODataModule | None:
        """The data module of the run, ``None`` where the trainer was given bare loaders."""
        datamodule = getattr(self.trainer, "datamodule", None)
        return datamodule if isinstance(datamodule, COCODataModule) else None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser, one schedule stepped per optimiser step."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer, scheduler = self.optimization.build(parameters, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- one step --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum the losses and log each of them."""
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._step_image_ids.append(batch.images.image_ids)
        # Objects that are not trained on: too small after resizing, inverted, empty or outside.
        objects = sum(int((~ground_truth.is_crowd).sum()) for ground_truth in batch.ground_truths)
        dropped = total.new_tensor(objects - sum(len(target.boxes) for target in batch.targets))
        named = {**losses, "loss": total, "dropped_boxes": dropped}
        self._step_losses.append({name: value.detach() for name, value in named.items()})
        return total

    def _log_step(self, steps: list[dict[str, Tensor]]) -> None:
        """Log the means over the batches of an optimiser step, of all processes where they are written down."""
        means = torch.stack([torch.stack(list(step.values())) for step in steps]).mean(dim=0)
        if (self.global_step + 1) % getattr(self.trainer, "log_every_n_steps", 50) == 0:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        named = dict(zip(steps[0], means, strict=True))
        self.log_dict({f"train/{name}": value for name, value in named.items()})
        self.log("loss", named["loss"], prog_bar=True, logger=False)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop the run, on all processes together, before a loss or gradient that is not finite spoils the weights.

        Raises:
            FloatingPointError: naming the step, the image ids and the losses of this process.
        """
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        self._log_step(self._step_losses)
        image_ids, losses = self._step_image_ids, self._step_losses
        self._step_image_ids, self._step_losses = [], []
        finite = torch.stack([loss.isfinite() for step in losses for loss in step.values()]).all()
        # With float16 a scaler expects gradients to overflow now and then, and skips such steps itself.
        if self.trainer.precision != "16-mixed":
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            finite &= torch.nn.utils.get_total_norm(gradients).isfinite().to(finite.device)
        # Gradients are already reduced, losses are not: every process has to hear of it, or the others would hang.
        if not self.trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
            ids = [image_id for batch in image_ids for image_id in batch.tolist()]
            values = [{name: loss.item() for name, loss in step.items()} for step in losses]
            raise FloatingPointError(
                f"loss or gradient is not finite at step {self.global_step}, rank {self.global_rank}: "
                f"image ids {ids}, losses {values}. Lower model.optimization.lr or look at these images."
            )

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def _finish_evaluation(self, prefix: str) -> None:
        values, num_images = self.evaluation_result()
        self.report_evaluation(prefix, values, num_images)
        for metric in self.metrics:
            metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics.

        Raises:
            InputError: the split has no annotations.
        """
        if not batch.ground_truths:
            raise InputError(NOTHING_TO_SCORE)
        self.evaluate_batch(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics under ``val/``."""
        self._finish_evaluation("val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[DetectionsOrig]] | None:
        """Add a batch to the metrics, or, without annotations, find the objects that a server will score.

        Returns:
            ``{"detections": ...}`` of a split without annotations, which cannot be scored here.

        Raises:
            InputError: the split has no annotations, and the stage does not detect.
        """
        if batch.ground_truths:
            self.evaluate_batch(batch)
            return None
        found = self.predict_step(batch, batch_idx)
        if not all(isinstance(of_image, DetectionsOrig) for of_image in found):
            raise InputError(NOTHING_TO_SCORE)
        return {"detections": found}

    def on_test_epoch_end(self) -> None:
        """Log the metrics under ``test/``, where the split has annotations."""
        if self.data is None or self.data.has_annotations("test"):
            self._finish_evaluation("test")

    def report_evaluation(self, prefix: str, values: Values, num_images: Tensor) -> None:
        """Keep the metrics of a pass and log them; a pass over part of the split is logged under another name.

        Args:
            prefix: ``val`` or ``test``.
            values: metrics as fractions, of all processes together.
            num_images: how many images this process evaluated.
        """
        total = self.trainer.strategy.reduce(num_images.clone(), reduce_op="sum")
        self.evaluation, self.evaluated_images = values, int(total)
        split_size = self.data.describe(prefix)["num_images"] if self.data is not None else self.evaluated_images
        if self.evaluated_images != split_size:
            if not self.trainer.sanity_checking:
                rank_zero_warn(
                    f"{self.evaluated_images} of {split_size} images were evaluated: logged as {prefix}_partial/…"
                )
            prefix += "_partial"
        known = {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
        self.log_dict(known, logger=False, sync_dist=True)  # for callbacks
        if not self.trainer.sanity_checking:
            for logger in self.loggers:  # under the number of steps taken; Lightning would write one less
                logger.log_metrics(known, step=self.global_step)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the categories, so that a checkpoint can name what it predicts without the data set."""
        checkpoint["categories"] = {"ids": list(self.categories.ids), "names": list(self.categories.names)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the categories, unless the data has some.

        Raises:
            InputError: if the checkpoint is of another model.
        """
        checkpoint["state_dict"] = stage_state(checkpoint["state_dict"])
        check_fits(self.detector, detector_state(checkpoint))
        self.check_origin(checkpoint)
        self.take_categories(checkpoint)

    def check_origin(self, checkpoint: dict[str, Any]) -> None:
        """Hook: raise InputError if the checkpoint was trained on data that this stage evaluates on."""

    def take_categories(self, checkpoint: dict[str, Any]) -> None:
        """Use the checkpoint's category names if the data set has none; warn if the two differ."""
        if not (stored := checkpoint.get("categories")):
            return
        learnt = Categories(*map(tuple, stored.values()))
        if not len(self.categories):
            self.categories = learnt
        elif self.categories != learnt and self._trainer is not None and self.trainer.state.fn != "fit":
            theirs, ours = (list(zip(found.ids, found.names, strict=True)) for found in (learnt, self.categories))
            pairs = zip(theirs, ours, strict=False)
            differing = next((f"{a} and {b}" for a, b in pairs if a != b), f"{len(theirs)} and {len(ours)} in number")
            rank_zero_warn(
                "the weights were trained for other categories than the data set has, whose names are used: the first "
                f"that differ are {differing}"
            )


def to_orig(images: ImageBatch, predictions: Sequence[Proposals | Detections]) -> list[Any]:
    """``ProposalsOrig`` or ``DetectionsOrig`` of every image of a batch, on the CPU; their order stays."""
    sources = zip(predictions, images.geometries, images.image_ids.tolist(), strict=True)
    return [prediction.to_orig(geometry, image_id) for prediction, geometry, image_id in sources]

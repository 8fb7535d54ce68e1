"""Base class of the LightningModules that train a detector.

The base class loads the initial weights, builds the optimiser, takes the training steps, and defines the content of
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.errors import InputError
from fpn_lightning.metric_names import COCO_AREAS, size_classes
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.stages.evaluated import EvaluatedStage
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.stages.total_batch import accumulation, keep_total_batch
from fpn_lightning.structures import Batch, ImageBatch
from fpn_lightning.weights.checkpoint import stage_state
from fpn_lightning.weights.init_from import check_fits, fetch_weights, load_weights, parts


class BaseStage(EvaluatedStage):
    """Trains and evaluates a detector.

    A subclass defines :meth:`losses` and :meth:`predict`, and registers its metrics.

    Args:
        detector: the model; the pre-trained weights of its backbone are loaded when training starts.
        heads: names of the heads that ``detector`` must have, for example ``rpn``.
        optimization: optimiser and schedule.
        init_from: checkpoint with the initial *weights*; training starts at step 0. To continue an interrupted run at
            its last step, use ``--ckpt_path`` instead.
        seed: the run's seed, set from ``seed_everything``. The random choice of training samples depends on
            this seed, the step and the image id.
        new_classes: load ``init_from`` without its class predictor, for a data set whose classes differ from the
            checkpoint's.
        freeze_shared: train only the heads; backbone and pyramid keep the weights of ``init_from``. Steps 3 and 4 of
            the training with shared features use this option (Faster R-CNN §3.2; FPN §5.2, Table 5).
        compile: compile backbone and pyramid with ``torch.compile``, which needs a C++ compiler on a CPU.

    Attributes:
        resumes: true if the command line was given ``ckpt_path``; the stage then does not load initial weights.
        categories: ids and names of the data set's categories, or of the checkpoint's categories if the data set has
            no categories.

    Raises:
        InputError: if ``detector`` lacks a head that the argument ``heads`` names, or has any other head; or if
            ``freeze_shared`` or ``new_classes`` is set without ``init_from``.
    """

    reads_proposals = False
    """Whether the stage reads ``data.proposals``."""

    def __init__(
        self,
        detector: Detector,
        heads: Sequence[str],
        optimization: Optimization,
        init_from: str | None = None,
        seed: int = 0,
        freeze_shared: bool = False,
        new_classes: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        detector.require(type(self).__name__, *heads)
        if freeze_shared and init_from is None:
            raise InputError(
                "model.freeze_shared needs model.init_from, which is not set. Set model.init_from to the checkpoint "
                "from which this run takes the frozen backbone and pyramid."
            )
        if new_classes and init_from is None:
            raise InputError(
                "model.new_classes needs model.init_from, which is not set. Set model.init_from to the initial "
                "weights, for example torchvision:COCO_V1."
            )
        self.detector = detector
        self.optimization = optimization
        self.init_from = init_from
        self.seed = seed
        self.freeze_shared = freeze_shared
        self.new_classes = new_classes
        self.compiles = compile
        self.resumes = False
        self._initialized = False
        self._step_image_ids: list[Tensor] = []
        self._step_losses: list[dict[str, Tensor]] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the training losses of a batch, a dict from loss names to scalars. Training minimises their sum."""
        raise NotImplementedError

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """Compute the detector's maps: ``{"p2": (N, d, H_2, W_2), ...}``."""
        return self.detector(images)

    def sampling_seeds(self, batch: Batch) -> Tensor:
        """Return one random seed per image, int64 ``(N,)``, for sampling this step's anchors, RoIs or mask cells."""
        return image_seeds(self.seed, self.global_step, batch.images.image_ids)

    # ---- start of training -----------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download the published weights of the backbone or the detector.

        Lightning calls this method in one process only.
        """
        if self.resumes:
            return
        if self.init_from is None:
            self.detector.backbone.download_weights()
        else:
            fetch_weights(self.init_from)

    def setup(self, stage: str) -> None:
        """Load the initial weights and set the categories. Only the first call loads the weights.

        Raises:
            InputError: if the weights do not fit the model, or if ``trainer.accumulate_grad_batches`` contradicts
                ``data.total_batch_size``.
        """
        super().setup(stage)
        if self.data is not None and self.data.categories:
            self.categories = self.data.categories
        self._load_initial_weights()
        if self.compiles:
            self.detector.compile_maps(constant_weights=stage != "fit")
        if stage != "fit":
            return
        if (areas := tuple(self.detector.scale.area_thresholds)) != COCO_AREAS:
            rank_zero_info(f"model.detector.scale.area_thresholds replaces COCO's size classes: {size_classes(areas)}")
        if self.freeze_shared:
            for part in (self.detector.backbone, self.detector.pyramid):
                part.requires_grad_(False)
            self.train(self.training)
        self.detector.backbone.check_declared(64, 96)
        if self.data is not None:
            accumulation(self.trainer, self.data)

    def _load_initial_weights(self) -> None:
        # The validation at the end of `fit` calls setup() again and must not replace the trained weights. `validate`
        # and `test` also load the initial weights, so that an untrained model can be evaluated.
        if self.resumes or self._initialized:
            return
        if self.init_from is None:
            self.detector.backbone.load_weights()
        else:
            required = ("backbone.", "pyramid.") if self.freeze_shared else ("backbone.",)
            checkpoint = load_weights(self.detector, self.init_from, required, self.new_classes)
            self.check_origin(checkpoint)
            if not self.new_classes:
                self.take_categories(checkpoint)
        self._initialized = True

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode.

        With ``freeze_shared``, backbone and pyramid stay in evaluation mode, so that their BatchNorm statistics do not
        change.
        """
        super().train(mode)
        if self.freeze_shared:
            self.detector.backbone.eval()
            self.detector.pyramid.eval()
        return self

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adapt gradient accumulation and schedule to ``data.total_batch_size``; build optimiser and scheduler."""
        if self.data is not None:
            self.optimization = keep_total_batch(self.trainer, self.data, self.optimization)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer, scheduler = self.optimization.build(parameters, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set a resumed run's learning rate from the configured schedule, not from the checkpoint."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        for group, lr, factor in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = lr * factor(scheduler.last_epoch)

    # ---- one step --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of a batch's losses, and keep each loss for the log."""
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._step_image_ids.append(batch.images.image_ids)
        # Training leaves out objects whose box is inverted (x2 < x1), empty, outside the image or, after resizing, too
        # small.
        objects = sum(int((~ground_truth.is_crowd).sum()) for ground_truth in batch.ground_truths)
        dropped = total.new_full((), objects - sum(len(target.boxes) for target in batch.targets))
        named = {**losses, "loss": total, "dropped_boxes": dropped}
        self._step_losses.append({name: value.detach() for name, value in named.items()})
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop all processes together if a loss or gradient is not finite, before the weights are changed.

        Raises:
            FloatingPointError: if a loss or gradient is not finite. The message names the step, and the image ids and
                losses of one process: the first process with a loss that is not finite, or rank 0 if all losses are
                finite.
        """
        image_ids, losses = self._step_image_ids, self._step_losses
        self._step_image_ids, self._step_losses = [], []
        finite = torch.stack([loss.isfinite() for step in losses for loss in step.values()]).all()
        # Gradients are not checked in float16: if they overflow, the gradient scaler skips the step.
        if self.trainer.precision != "16-mixed":
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            finite &= torch.nn.utils.get_total_norm(gradients).isfinite().to(finite.device)
        # Losses differ between processes. If one process stopped alone, the other processes would wait for it forever.
        if not self.trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
            ids = [image_id for batch in image_ids for image_id in batch.tolist()]
            values = [{name: loss.item() for name, loss in step.items()} for step in losses]
            wrong = not all(math.isfinite(value) for step in values for value in step.values())
            report = (wrong, f"rank {self.global_rank}: image ids {ids}, losses {values}")
            reports = [report] * self.trainer.world_size
            if dist.is_initialized():
                dist.all_gather_object(reports, report)
            named = next((text for wrong, text in reports if wrong), reports[0][1])
            raise FloatingPointError(
                f"loss or gradient is not finite at step {self.global_step}, {named}. Lower model.optimization.lr, or "
                "check the named images and their annotations."
            )
        self._log_step(losses, optimizer.param_groups[0]["lr"])

    def _log_step(self, losses: list[dict[str, Tensor]], lr: float) -> None:
        """Log the losses of an optimiser step, averaged over its micro-batches.

        Every ``log_every_n_steps`` steps, average the losses over processes too and pass them to the loggers.

        The loggers are called directly, because Lightning calls loggers only after it has saved the step's checkpoint.
        Logging has to come first: if a run is killed after saving and before logging, the log lacks a step that the
        checkpoint contains.
        """
        means = torch.stack([torch.stack(list(batch.values())) for batch in losses]).mean(dim=0)
        every = getattr(self.trainer, "log_every_n_steps", 50)  # Lightning's types lack the attribute
        written = bool(every) and (self.global_step + 1) % every == 0
        if written:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        named = {f"train/{name}": value for name, value in zip(losses[0], means, strict=True)}
        self.log_dict(named, logger=False)  # for callbacks
        self.log("loss", named["train/loss"], prog_bar=True, logger=False)
        if written:
            values = {name: value.item() for name, value in named.items()} | {"train/lr": lr}
            for logger in self.loggers:
                logger.log_metrics(values, step=self.global_step)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the class names of backbone and pyramid, the categories and annotation file digests to a checkpoint.

        Predictions for data without category names use the names in the checkpoint. A run is not resumed if the digest
        of an annotation file differs from that in the checkpoint.
        """
        checkpoint["parts"] = parts(self.detector)
        if self.data is not None and self.trainer.state.fn == "fit":
            checkpoint["annotations"] = {split: self.data.describe(split)["fingerprint"] for split in ("train", "val")}
        checkpoint["categories"] = {"ids": list(self.categories.ids), "names": list(self.categories.names)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits the model. If the data set has no categories, use those of the checkpoint.

        Raises:
            InputError: if the checkpoint belongs to another model, or if a run is resumed with another annotation file.
        """
        checkpoint["state_dict"] = stage_state(checkpoint["state_dict"])
        check_fits(self.detector, checkpoint)
        self._check_annotations(checkpoint)
        self.check_origin(checkpoint)
        self.take_categories(checkpoint)
        # Drop the checkpoint's elapsed time, so that trainer.max_time limits each call of `fit`, not the sum of all
        # calls.
        checkpoint.get("callbacks", {}).pop("Timer", None)

    def _check_annotations(self, checkpoint: dict[str, Any]) -> None:
        if self.data is None or self.trainer.state.fn != "fit":
            return
        for split, digest in checkpoint.get("annotations", {}).items():
            described = self.data.describe(split)
            if described["fingerprint"] != digest:
                raise InputError(
                    f"data.{split}_split: the annotation file of {described['split']} has sha256 "
                    f"{described['fingerprint'][:12]}, but the run was started with sha256 {digest[:12]}. Set "
                    "data.root to the data that the run was started with, or start the run again with "
                    "--experiment.overwrite true and without --ckpt_path."
                )

    def check_origin(self, checkpoint: dict[str, Any]) -> None:
        """Hook for subclasses: raise InputError if the checkpoint's training images are in an evaluated split."""

    def take_categories(self, checkpoint: dict[str, Any]) -> None:
        """Use the checkpoint's categories if the data set has none; warn if the two have different categories."""
        if not (stored := checkpoint.get("categories")):
            return
        trained = Categories(*map(tuple, stored.values()))
        if not len(self.categories):
            self.categories = trained
        elif self.categories != trained and self._trainer is not None and self.trainer.state.fn != "fit":
            theirs, ours = (list(zip(c.ids, c.names, strict=True)) for c in (trained, self.categories))
            pairs = zip(theirs, ours, strict=False)
            difference = next(
                (f"the first difference is {a} in the weights, {b} in the data set" for a, b in pairs if a != b),
                f"the weights have {len(theirs)} categories, the data set has {len(ours)}",
            )
            rank_zero_warn(
                f"The categories of the weights and of the data set differ: {difference}. The data set's categories "
                "are used."
            )

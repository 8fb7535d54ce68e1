"""Training of segmentation proposals (FPN §6, App. A): Table 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.recall_metrics import SegmentRecall
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.masks.paste import Interpolation, paste_masks
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch

PAPER = Optimization(lr=0.03, milestones=(60_000,))


class MaskProposalStage(BaseStage):
    """Trains MLPs that propose a mask at each position of the pyramid's maps, and measures the recall of the masks.

    Args:
        detector: a detector with backbone, pyramid and mask proposer (``masks``), and without RPN and RoI heads.
        mask_threshold: probability above which a pixel belongs to a mask.
        mask_interpolation: how mask logits are interpolated when a mask is pasted into the image.
        recall_limits: numbers of proposals per image for which recall is measured, such as 100 for ``AR100``.
        optimization: optimiser and schedule. The default is the paper's schedule for 80,000 steps.
        init_from: checkpoint with the initial weights; training starts at step 0.
        seed: the run's seed, set from ``seed_everything``.
        compile: compile backbone and pyramid with ``torch.compile``.

    Raises:
        InputError: if ``mask_threshold`` is not between 0 and 1.
    """

    def __init__(
        self,
        detector: Detector,
        mask_threshold: float = 0.2,
        mask_interpolation: Interpolation = "bilinear",
        recall_limits: Sequence[int] = (10, 100, 1000),
        optimization: Optimization = PAPER,
        init_from: str | None = None,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__(detector, ["masks"], optimization, init_from, seed, compile=compile)
        if not 0 < mask_threshold < 1:
            raise InputError(f"model.mask_threshold is {mask_threshold}; it has to be between 0 and 1.")
        self.mask_threshold = mask_threshold
        self.mask_interpolation: Interpolation = mask_interpolation
        self.recall = SegmentRecall(recall_limits, detector.scale.area_thresholds)

    def setup(self, stage: str) -> None:
        """See :meth:`BaseStage.setup`; also checks that masks are loaded and that no training image is evaluated.

        Raises:
            InputError: if ``data.load_masks`` is false, or if splits share images (:func:`reject_shared_images`).
        """
        if self.data is not None and stage in ("fit", "validate") and not self.data.load_masks:
            raise InputError("Mask proposals need the masks of the objects: set data.load_masks to true.")
        if stage == "fit" and self.data is not None:
            self._reject_shared_images(self.data.train_split)
        super().setup(stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See :meth:`BaseStage.on_save_checkpoint`; also stores the name of the training split."""
        super().on_save_checkpoint(checkpoint)
        if self.data is not None:
            checkpoint["train_split"] = self.data.train_split

    def check_origin(self, checkpoint: dict[str, Any]) -> None:
        """Reject weights that were trained on images of an evaluated split.

        Raises:
            InputError: see :func:`reject_shared_images`.
        """
        if (train_split := checkpoint.get("train_split")) is not None:
            self._reject_shared_images(train_split)

    def _reject_shared_images(self, train_split: str) -> None:
        if self._trainer is not None and self.data is not None:
            reject_shared_images(train_split, self.data.val_split, self.data.test_split, self.data.predict_split)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss_mask`` and ``loss_mask_score``."""
        masks = self.detector.masks
        assert masks is not None
        return masks.losses(self.detector(batch.images), batch.images, batch.targets, self.sampling_seeds(batch))

    def predict_step(self, batch: Batch, batch_idx: int) -> list[MaskProposalsOrig]:
        """Propose masks in every image, best first. Each mask has the height and width of the image file."""
        images = batch.images
        return [
            MaskProposalsOrig(
                image_id=int(images.image_ids[n]),
                masks=paste_masks(proposals, images.geometries[n], self.mask_threshold, self.mask_interpolation),
                scores=proposals.scores.cpu(),
                levels=proposals.levels.cpu(),
            )
            for n, proposals in enumerate(self.detector.propose_masks(images))
        ]


def reject_shared_images(train_split: str, *eval_splits: str | None) -> None:
    """Reject evaluation on a COCO 2014 split if images of the split were used for training.

    COCO 2014 and COCO 2017 split the same images differently. Of the 40,504 images of val2014, 5,000 are in val2017 and
    all others are in train2017. The unofficial splits trainval35k and valminusminival2014 also contain images of
    val2014.

    Raises:
        InputError: if training and evaluation share images. The message names both splits.
    """
    for split in eval_splits:
        if split is not None and "2014" in split and ("2017" in train_split or "val" in train_split):
            raise InputError(
                f"The model's data.train_split {train_split} contains images of the evaluated split {split}. "
                "Train on train2014, as in Table 6, or evaluate on another split."
            )

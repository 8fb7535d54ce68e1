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
    """Trains MLPs that propose segments at all positions of a pyramid, and measures the recall of their masks.

    Args:
        detector: backbone, pyramid and ``masks``; ``rpn`` and ``roi_heads`` are null.
        mask_threshold: probability above which a pixel belongs to a mask.
        mask_interpolation: how mask logits are interpolated between the centres of a mask's cells.
        recall_limits: numbers of proposals at which recall is measured.
        optimization: the default is the paper's, with ``trainer.max_steps: 80000``.
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
        """See :meth:`BaseStage.setup`; also checks the masks, and that training and evaluated splits share no images.

        Raises:
            InputError: if ``data.load_masks`` is false; see also :func:`reject_shared_images`.
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
        """Propose masks in every image, pixels of the image file, best first."""
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
    """Reject an evaluation on a split of COCO 2014 if some of its images were used for training.

    COCO 2017 splits the images of 2014 differently: of the 40,504 images of val2014, 5,000 are in val2017, all others
    in train2017. The unofficial splits trainval35k and valminusminival2014 also contain images of val2014.

    Raises:
        InputError: if images are shared; the message names both splits.
    """
    for split in eval_splits:
        if split is not None and "2014" in split and ("2017" in train_split or "val" in train_split):
            raise InputError(
                f"The model is or was trained on data.train_split {train_split}, which contains images of {split}. "
                "Train on train2014, as Table 6 does, or evaluate on another split."
            )

"""Segmentation proposals (FPN §6, App. A): trained for masks, judged by their average recall. Table 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.segment_recall import SegmentRecall
from fpn_lightning.mask_structures import MaskProposalsOrig
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.masks.paste import Interpolation, paste_masks
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch

PAPER = Optimization(lr=0.03, milestones=(60_000,))


class MaskProposalStage(BaseStage):
    """Trains MLPs that slide over a pyramid and propose segments, and measures their recall.

    Args:
        detector: backbone, pyramid and ``masks``; ``rpn`` and ``roi_heads`` are null.
        mask_threshold: probability above which a pixel belongs to a mask.
        mask_interpolation: of the mask logits between the centres of a mask's cells.
        recall_limits: numbers of proposals at which recall is measured.
        optimization: the default is the paper's, with ``trainer.max_steps: 80000``.
        init_from: see :class:`BaseStage`.
        seed: see :class:`BaseStage`.

    Raises:
        InputError: a value out of range, by its configuration key.
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
    ) -> None:
        super().__init__(detector, ["masks"], optimization, init_from, seed)
        if not 0 < mask_threshold < 1:
            raise InputError(f"model.mask_threshold is {mask_threshold}; it has to be between 0 and 1")
        self.mask_threshold = mask_threshold
        self.mask_interpolation: Interpolation = mask_interpolation
        self.recall = SegmentRecall(recall_limits, detector.scale.area_thresholds)

    def setup(self, stage: str) -> None:
        """As :meth:`BaseStage.setup`, and refuse to train on images that Table 6 evaluates.

        Raises:
            InputError: see :func:`refuse_leak`, and as :meth:`BaseStage.setup`.
        """
        if stage == "fit" and self.data is not None:
            self._refuse_leak(self.data.train_split)
        super().setup(stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As :meth:`BaseStage.on_save_checkpoint`, and what the model was trained on."""
        super().on_save_checkpoint(checkpoint)
        if self.data is not None:
            checkpoint["train_split"] = self.data.train_split

    def check_origin(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained on what is evaluated.

        Raises:
            InputError: see :func:`refuse_leak`.
        """
        if (trained_on := checkpoint.get("train_split")) is not None:
            self._refuse_leak(trained_on)

    def _refuse_leak(self, train_split: str) -> None:
        if self._trainer is not None and self.data is not None:
            refuse_leak(train_split, self.data.val_split, self.data.test_split, self.data.predict_split)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_mask`` and ``loss_mask_score``."""
        masks = self.detector.masks
        assert masks is not None
        return masks.losses(self.detector(batch.images), batch.images, batch.targets, self.sampling_seeds(batch))

    def predict_step(self, batch: Batch, batch_idx: int) -> list[MaskProposalsOrig]:
        """Mask proposals of every image, pixels of the image file, best first."""
        images = batch.images
        return [
            MaskProposalsOrig(
                image_id=int(images.image_ids[n]),
                masks=paste_masks(found, images.geometries[n], self.mask_threshold, self.mask_interpolation),
                scores=found.scores.cpu(),
                levels=found.levels.cpu(),
            )
            for n, found in enumerate(self.detector.propose_masks(images))
        ]


def refuse_leak(train_split: str, *eval_splits: str | None) -> None:
    """Refuse to judge by val2014, or another split of 2014, what was trained on some of its images.

    COCO 2017 parts the images of 2014 anew. val2014 has 40,504 images, of which val2017 took 5,000; the others went
    to train2017. Splits that people made of 2014's (trainval35k, valminusminival2014) hold them, too. Table 6 is
    trained on train2014.

    Raises:
        InputError: naming the split.
    """
    for split in eval_splits:
        if split is not None and "2014" in split and ("2017" in train_split or "val" in train_split):
            raise InputError(
                f"data.train_split is or was {train_split}, which holds images of {split}; train on train2014, as "
                "Table 6 does, or evaluate another split"
            )

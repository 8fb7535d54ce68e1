"""Segmentation proposals (FPN §6, App. A): trained for masks, judged by their average recall. Table 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.segment_recall import SegmentRecall
from fpn_lightning.mask_structures import MaskProposals, MaskProposalsOrig
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.masks.paste import Interpolation, paste_masks
from fpn_lightning.models.masks.proposer import MaskProposer
from fpn_lightning.models.pyramids import FPN, Pyramid
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.stages.base import BaseStage, Values
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch, ImageBatch

PAPER = Optimization(lr=0.03, milestones=[60_000])


class MaskProposalStage(BaseStage):
    """Trains MLPs that slide over a feature design and propose segments, and measures their recall.

    Args:
        backbone: the trunk.
        pyramid: the feature design, called with what the trunk declares:
            ``pyramid(channels, strides, pyramid_channels)``.
        masks: the MLPs, called with ``masks(pyramid_channels, strides, base_anchor_size)``.
        pyramid_channels: channels d of every map (FPN App. A: 128).
        base_anchor_size: object size that the finest level stands for, px of the network input; doubled from level to
            level (32 to 512 in the paper).
        canonical_size: of no account here, where no region is pooled; every stage takes the lengths that a preset
            scales, so that one preset fits every row.
        mask_threshold: probability above which a pixel belongs to a mask.
        mask_interpolation: of the mask logits between the centres of a mask's cells.
        recall_limits: numbers of proposals at which recall is measured.
        area_thresholds: px² of the image file that part small from medium and medium from large (COCO's 32², 96²).
        optimization: optimiser and schedule; the default is the paper's, with ``trainer.max_steps: 80000``.
        init_from: checkpoint whose weights the model starts from.
        seed: the run's seed, linked from ``seed_everything``.

    Raises:
        InputError: a value that cannot be, by its configuration key.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: Callable[[dict[str, int], dict[str, int], int], Pyramid] = FPN,
        masks: Callable[[int, dict[str, int], float], MaskProposer] = MaskProposer,
        pyramid_channels: int = 128,
        base_anchor_size: float = 32,
        canonical_size: float = 224,
        mask_threshold: float = 0.2,
        mask_interpolation: Interpolation = "bilinear",
        recall_limits: Sequence[int] = (10, 100, 1000),
        area_thresholds: tuple[float, float] = (32**2, 96**2),
        optimization: Optimization = PAPER,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, optimization, init_from, seed)
        if not 0 < mask_threshold < 1:
            raise InputError(f"model.mask_threshold is {mask_threshold}; it has to be between 0 and 1")
        self.pyramid = pyramid(backbone.channels, backbone.strides, pyramid_channels)
        backbone.keep(self.pyramid.used)
        self.masks = masks(self.pyramid.out_channels, self.pyramid.strides, base_anchor_size)
        self.mask_threshold = mask_threshold
        self.mask_interpolation: Interpolation = mask_interpolation
        self.area_thresholds = area_thresholds
        self.recall = SegmentRecall(recall_limits, area_thresholds)

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

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """The maps of a batch, ``{"p2": (N, d, H_2, W_2), ...}``; :attr:`masks` makes losses or proposals of them."""
        return self.pyramid(self.backbone(images))

    def feature_maps(self, images: ImageBatch) -> dict[str, Tensor]:
        """The same under the name that all stages have."""
        return self(images)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_mask`` and ``loss_mask_score``."""
        seeds = image_seeds(self.seed, self.global_step, batch.images.image_ids)
        return self.masks.losses(self(batch.images), batch.images, batch.targets, seeds)

    def propose(self, images: ImageBatch) -> list[MaskProposals]:
        """Proposals of every image, network-input pixels, best first."""
        return self.masks.predict(self(images), images.sizes)

    def propose_orig(self, images: ImageBatch) -> list[MaskProposalsOrig]:
        """Proposals of every image in pixels of its file, best first."""
        return [
            MaskProposalsOrig(
                image_id=int(images.image_ids[n]),
                masks=paste_masks(found, images.geometries[n], self.mask_threshold, self.mask_interpolation),
                scores=found.scores.cpu(),
                levels=found.levels.cpu(),
            )
            for n, found in enumerate(self.propose(images))
        ]

    def evaluate_batch(self, batch: Batch) -> None:
        """Add the proposals of a batch to the recall."""
        for found, ground_truth in zip(self.propose_orig(batch.images), batch.ground_truths, strict=True):
            self.recall.update(found, ground_truth)

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """``segm_AR100``, ``segm_AR1k`` and the rest."""
        return self.recall.compute(), self.recall.num_images

    def reset_evaluation(self) -> None:
        """Forget the images added."""
        self.recall.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[MaskProposalsOrig]:
        """Proposals of every image of a batch, pixels of the image file."""
        return self.propose_orig(batch.images)


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

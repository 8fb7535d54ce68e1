"""Faster R-CNN trained end to end: an RPN and a detector on one pyramid. An extra row of ours to Table 3.

The paper trains in stages (Tables 2, 3) or by alternation (Table 5); here the losses of both heads are summed in every
step, and the detector learns on the proposals of the same step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.coco_evaluator import Backend
from fpn_lightning.evaluation.proposal_recall import ProposalRecall
from fpn_lightning.models.anchors import AnchorConvention, AnchorGenerator
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.box_head import BoxHead
from fpn_lightning.models.pyramids import FPN, Pyramid
from fpn_lightning.models.rcnn import HeadName, make_box_head
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.rpn import RPN
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.stages.base import BaseStage, Values
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.stages.results import detections_to_original, proposals_to_original
from fpn_lightning.structures import Batch, Detections, DetectionsOrig, ImageBatch, Proposals

JOINT = Optimization(milestones=[60_000])


class FasterRCNNStage(BaseStage):
    """Trains a proposal network and a detector together, and measures the proposals of the one and the other's AP.

    Args:
        backbone: the trunk.
        pyramid: the feature design, called with what the trunk declares:
            ``pyramid(channels, strides, pyramid_channels)``.
        rpn: the proposal network, called with ``rpn(pyramid_channels, anchor_generator)``; the detector is trained on
            all proposals it hands out (``post_nms_topk``).
        box_head: ``2fc``, or ``conv5``, the trunk's last stage on c4.
        roi_pooler: called with ``roi_pooler(strides, resolution, canonical_size)``.
        roi_heads: called with ``roi_heads(pooler, box_head, num_classes)``.
        pyramid_channels: channels d of every map.
        fc_width: outputs of the two fully connected layers of ``2fc``.
        num_classes: foreground classes, linked from ``data.num_classes``.
        base_anchor_size: size of the smallest anchors, px of the network input (area 32² in the paper).
        anchor_octaves: for each map, finest first, which octaves its anchors take: octave i has size
            ``base_anchor_size * 2**i``. One for each of p2..p6 in FPN.
        anchor_ratios: height / width.
        anchor_convention: ``exact``, or ``torchvision`` for weights that were trained there.
        eval_proposals: the best so many proposals of an image go to the detector at test time (FPN §5.2: 1000).
        canonical_size: size of an object, px of the network input, that is pooled from p4 (Eq. 1).
        recall_limits: numbers of proposals at which their recall is measured.
        area_thresholds: px² of the image file that part small from medium and medium from large (COCO's 32², 96²).
        evaluator: ``faster-coco-eval``, or ``pycocotools``, the reference.
        optimization: optimiser and schedule; the default is that of the paper's Fast R-CNN, with
            ``trainer.max_steps: 80000``.
        init_from: checkpoint whose weights the model starts from.
        seed: the run's seed, linked from ``seed_everything``.

    Raises:
        InputError: fewer than one proposal at test time, or parts that do not fit together.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: Callable[[dict[str, int], dict[str, int], int], Pyramid] = FPN,
        rpn: Callable[[int, AnchorGenerator], RPN] = RPN,
        box_head: HeadName = "2fc",
        roi_pooler: Callable[[dict[str, int], int, float], RoIPooler] = RoIPooler,
        roi_heads: Callable[[RoIPooler, BoxHead, int], RoIHeads] = RoIHeads,
        pyramid_channels: int = 256,
        fc_width: int = 1024,
        num_classes: int = 80,
        base_anchor_size: float = 32,
        anchor_octaves: Sequence[Sequence[int]] = ((0,), (1,), (2,), (3,), (4,)),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        anchor_convention: AnchorConvention = "exact",
        eval_proposals: int = 1000,
        canonical_size: float = 224,
        recall_limits: Sequence[int] = (10, 30, 100, 1000),
        area_thresholds: tuple[float, float] = (32**2, 96**2),
        evaluator: Backend = "faster-coco-eval",
        optimization: Optimization = JOINT,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, optimization, init_from, seed)
        if eval_proposals < 1:
            raise InputError(f"model.eval_proposals is {eval_proposals}; it has to be at least 1")
        self.pyramid = pyramid(backbone.channels, backbone.strides, pyramid_channels)
        head = make_box_head(box_head, backbone, self.pyramid, fc_width)
        sizes = [[base_anchor_size * 2**octave for octave in octaves] for octaves in anchor_octaves]
        anchor_generator = AnchorGenerator(self.pyramid.strides, sizes, anchor_ratios, anchor_convention)
        self.rpn = rpn(self.pyramid.out_channels, anchor_generator)
        pooler = roi_pooler(self.pyramid.strides, head.resolution, canonical_size)
        self.roi_heads = roi_heads(pooler, head, num_classes)
        self.eval_proposals = eval_proposals
        self.area_thresholds = area_thresholds
        self.recall = ProposalRecall(tuple(recall_limits), area_thresholds)
        self.precision = AveragePrecision(area_thresholds, backend=evaluator)

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """The maps that both heads read, ``{"p2": (N, d, H_2, W_2), ...}``."""
        return self.pyramid(self.backbone(images))

    def feature_maps(self, images: ImageBatch) -> dict[str, Tensor]:
        """The same under the name that all stages have."""
        return self(images)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls`` and ``loss_box_reg``; no gradient passes the proposals.

        Of an RPN whose outputs are not finite the losses are not a number, and the detector sees the objects alone: a
        process that stopped here would leave the others waiting, so all stop before the step is taken.
        """
        images = batch.images
        maps = self(images)
        outputs = self.rpn(maps)
        seeds = image_seeds(self.seed, self.global_step, images.image_ids)
        losses = self.rpn.losses(outputs, batch.targets, seeds)
        try:
            proposals = self.rpn.predict(outputs, images.sizes)
        except FloatingPointError:
            losses = {name: value * math.nan for name, value in losses.items()}
            proposals = [no_proposals(images.pixels.device) for _ in batch.targets]
        return losses | self.roi_heads.losses(maps, proposals, batch.targets, seeds)

    def find(self, images: ImageBatch) -> tuple[list[Proposals], list[Detections]]:
        """All proposals of every image and the detections from the best of them, of one forward pass."""
        maps = self(images)
        proposals = self.rpn.predict(self.rpn(maps), images.sizes)
        best = [
            Proposals(
                found.boxes[: self.eval_proposals],
                found.objectness[: self.eval_proposals],
                found.levels[: self.eval_proposals],
            )
            for found in proposals
        ]
        return proposals, self.roi_heads.predict(maps, best, images.sizes)

    def evaluate_batch(self, batch: Batch) -> None:
        """Add the proposals of a batch to the recall and its detections to the average precision."""
        proposals, detections = self.find(batch.images)
        for found, truth in zip(proposals_to_original(batch.images, proposals), batch.ground_truths, strict=True):
            self.recall.update(found, truth)
        for detected, truth in zip(detections_to_original(batch.images, detections), batch.ground_truths, strict=True):
            self.precision.update(detected, truth)

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """``AP``, ``AP50`` … of the detections; ``AR100``, ``AR1k`` … of the proposals, as in Table 1."""
        # COCO's summary of detections has an AR100 too; one name cannot mean both.
        precision = {name: value for name, value in self.precision.compute().items() if name.startswith("AP")}
        return precision | self.recall.compute(), self.precision.num_images

    def reset_evaluation(self) -> None:
        """Forget the images added."""
        self.recall.reset()
        self.precision.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[DetectionsOrig]:
        """Detections of every image of a batch, pixels of the image file."""
        _, detections = self.find(batch.images)
        return detections_to_original(batch.images, detections)


def no_proposals(device: torch.device) -> Proposals:
    """The proposals of an image in which none was found."""
    none = torch.zeros(0, device=device)
    return Proposals(none.view(0, 4), none, none.long())

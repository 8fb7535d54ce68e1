"""RPN alone (FPN §4.1 and §5.1): trained for proposals, judged by average recall. Table 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fpn_lightning.evaluation.proposal_recall import ProposalRecall
from fpn_lightning.models.anchors import AnchorGenerator
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.image_pyramid import check_scales, propose_on_scales
from fpn_lightning.models.pyramids import FPN, Pyramid
from fpn_lightning.models.rpn import RPN, RPNOutputs
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.stages.base import BaseStage, Values
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.stages.results import proposals_to_original
from fpn_lightning.structures import Batch, ImageBatch, Proposals, ProposalsOrig

PAPER = Optimization()


class RPNStage(BaseStage):
    """Trains a region proposal network over a feature design and measures its proposals.

    Args:
        backbone: the trunk.
        pyramid: the feature design, called with what the trunk declares:
            ``pyramid(channels, strides, pyramid_channels)``.
        rpn: the proposal network, called with ``rpn(pyramid_channels, anchor_generator)``.
        pyramid_channels: channels d of every map.
        base_anchor_size: size of the smallest anchors, px of the network input (area 32² in the paper).
        anchor_octaves: for each map, finest first, which octaves its anchors take: octave i has size
            ``base_anchor_size * 2**i``. One for each of p2..p6 in FPN.
        anchor_ratios: height / width.
        image_scales: at test time, the scales of a featurised image pyramid (Fig. 1(a)), relative to the network
            input; ``(1.0,)`` is none. Training always sees one scale.
        recall_limits: numbers of proposals at which recall is measured.
        area_thresholds: px² of the image file that part small from medium and medium from large (COCO's 32², 96²).
        canonical_size: of no account here, where no region is pooled; every stage takes the lengths that a preset
            scales, so that one preset fits every row.
        optimization: optimiser and schedule; the default is the paper's, with ``trainer.max_steps: 40000``.
        init_from: checkpoint whose weights the model starts from.
        seed: the run's seed, linked from ``seed_everything``.
        freeze_shared: train the head only, see :class:`BaseStage`.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: Callable[[dict[str, int], dict[str, int], int], Pyramid] = FPN,
        rpn: Callable[[int, AnchorGenerator], RPN] = RPN,
        pyramid_channels: int = 256,
        base_anchor_size: float = 32,
        anchor_octaves: Sequence[Sequence[int]] = ((0,), (1,), (2,), (3,), (4,)),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        image_scales: Sequence[float] = (1.0,),
        recall_limits: Sequence[int] = (10, 30, 100, 1000),
        area_thresholds: tuple[float, float] = (32**2, 96**2),
        canonical_size: float = 224,
        optimization: Optimization = PAPER,
        init_from: str | None = None,
        seed: int = 0,
        freeze_shared: bool = False,
    ) -> None:
        super().__init__(backbone, optimization, init_from, seed, freeze_shared)
        self.pyramid = pyramid(backbone.channels, backbone.strides, pyramid_channels)
        backbone.keep(self.pyramid.used)
        sizes = [[base_anchor_size * 2**octave for octave in octaves] for octaves in anchor_octaves]
        anchor_generator = AnchorGenerator(self.pyramid.strides, sizes, anchor_ratios)
        self.rpn = rpn(self.pyramid.out_channels, anchor_generator)
        self.image_scales = check_scales(image_scales)
        self.recall_limits = tuple(recall_limits)
        self.area_thresholds = area_thresholds
        self.recall = ProposalRecall(self.recall_limits, self.area_thresholds)

    def forward(self, images: ImageBatch) -> RPNOutputs:
        """Raw RPN outputs of a batch; :attr:`rpn` turns them into losses or proposals."""
        return self.rpn(self.pyramid(self.backbone(images)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_loc``."""
        seeds = image_seeds(self.seed, self.global_step, batch.images.image_ids)
        return self.rpn.losses(self(batch.images), batch.targets, seeds)

    def propose(self, images: ImageBatch) -> list[Proposals]:
        """Proposals of every image, network-input pixels, best first, from all ``image_scales`` together."""
        return propose_on_scales(
            lambda scaled: self.rpn.predict(self(scaled), scaled.sizes),
            images,
            self.image_scales,
            self.rpn.nms_thresh,
            self.rpn.post_nms_topk,
        )

    def propose_orig(self, images: ImageBatch) -> list[ProposalsOrig]:
        """Proposals of every image in pixels of its file, best first."""
        return proposals_to_original(images, self.propose(images))

    def feature_maps(self, images: ImageBatch) -> dict[str, Tensor]:
        """The maps the head reads: ``{"p2": (N, d, H_2, W_2), ...}``."""
        return self.pyramid(self.backbone(images))

    def evaluate_batch(self, batch: Batch) -> None:
        """Add the proposals of a batch to the recall."""
        for found, ground_truth in zip(self.propose_orig(batch.images), batch.ground_truths, strict=True):
            self.recall.update(found, ground_truth)

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """``AR100``, ``AR1k`` and the rest."""
        return self.recall.compute(), self.recall.num_images

    def reset_evaluation(self) -> None:
        """Forget the images added."""
        self.recall.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[ProposalsOrig]:
        """Proposals of every image of a batch, pixels of the image file, all ``post_nms_topk`` of them."""
        return self.propose_orig(batch.images)

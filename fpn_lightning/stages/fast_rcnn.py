"""Fast R-CNN on fixed proposals (FPN §4.2 and §5.2): trained to detect, judged by average precision. Table 2."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.coco_evaluator import Backend
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.box_head import BoxHead
from fpn_lightning.models.pyramids import FPN, Pyramid
from fpn_lightning.models.rcnn import HeadName, make_box_head
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.sampler import image_seeds
from fpn_lightning.stages.base import BaseStage, Values
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.stages.results import detections_to_original
from fpn_lightning.structures import Batch, DetectionsOrig, ImageBatch

PAPER = Optimization(milestones=[60_000])
NO_PROPOSALS = (
    "Fast R-CNN needs fixed proposals of its images: --data.proposals RUN/proposals, the folder of the stores that "
    "python train.py predict --config RUN/config.yaml --ckpt_path last --data.predict_split SPLIT writes for a run of "
    "an RPN, one for each split. There are none for a folder of images."
)


class FastRCNNStage(BaseStage):
    """Trains a region-based detector over a feature design, on proposals that a store holds.

    Args:
        backbone: the trunk.
        pyramid: the feature design, called with what the trunk declares:
            ``pyramid(channels, strides, pyramid_channels)``.
        box_head: ``2fc``, or ``conv5``, the trunk's last stage on c4.
        roi_pooler: called with ``roi_pooler(strides, resolution, canonical_size)``.
        roi_heads: called with ``roi_heads(pooler, box_head, num_classes)``.
        pyramid_channels: channels d of every map.
        fc_width: outputs of the two fully connected layers of ``2fc``.
        num_classes: foreground classes, linked from ``data.num_classes``.
        base_anchor_size: of no account here, where there are no anchors; every stage takes the lengths that a preset
            scales, so that one preset fits every row.
        canonical_size: size of an object, px of the network input, that is pooled from p4 (Eq. 1).
        area_thresholds: px² of the image file that part small from medium and medium from large (COCO's 32², 96²).
        evaluator: ``faster-coco-eval``, or ``pycocotools``, the reference.
        optimization: optimiser and schedule; the default is the paper's, with ``trainer.max_steps: 80000``.
        init_from: checkpoint whose weights the model starts from.
        seed: the run's seed, linked from ``seed_everything``.
        freeze_shared: train the head only, see :class:`BaseStage`.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: Callable[[dict[str, int], dict[str, int], int], Pyramid] = FPN,
        box_head: HeadName = "2fc",
        roi_pooler: Callable[[dict[str, int], int, float], RoIPooler] = RoIPooler,
        roi_heads: Callable[[RoIPooler, BoxHead, int], RoIHeads] = RoIHeads,
        pyramid_channels: int = 256,
        fc_width: int = 1024,
        num_classes: int = 80,
        base_anchor_size: float = 32,
        canonical_size: float = 224,
        area_thresholds: tuple[float, float] = (32**2, 96**2),
        evaluator: Backend = "faster-coco-eval",
        optimization: Optimization = PAPER,
        init_from: str | None = None,
        seed: int = 0,
        freeze_shared: bool = False,
    ) -> None:
        super().__init__(backbone, optimization, init_from, seed, freeze_shared)
        self.pyramid = pyramid(backbone.channels, backbone.strides, pyramid_channels)
        head = make_box_head(box_head, backbone, self.pyramid, fc_width)
        pooler = roi_pooler(self.pyramid.strides, head.resolution, canonical_size)
        self.roi_heads = roi_heads(pooler, head, num_classes)
        self.area_thresholds = area_thresholds
        self.precision = AveragePrecision(area_thresholds, backend=evaluator)

    def setup(self, stage: str) -> None:
        """See :meth:`BaseStage.setup`; no step is taken before proposals are missed."""
        super().setup(stage)
        if self.data is not None and self.data.proposals is None:
            raise InputError(NO_PROPOSALS)

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """The maps of a batch, ``{"p2": (N, d, H_2, W_2), ...}``; :attr:`roi_heads` pools regions from them."""
        return self.pyramid(self.backbone(images))

    def feature_maps(self, images: ImageBatch) -> dict[str, Tensor]:
        """The same under the name that all stages have."""
        return self(images)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box_reg``."""
        check_proposals(batch)
        seeds = image_seeds(self.seed, self.global_step, batch.images.image_ids)
        return self.roi_heads.losses(self(batch.images), batch.proposals, batch.targets, seeds)

    def detect_orig(self, batch: Batch) -> list[DetectionsOrig]:
        """Detections of every image in pixels of its file, best first."""
        check_proposals(batch)
        found = self.roi_heads.predict(self(batch.images), batch.proposals, batch.images.sizes)
        return detections_to_original(batch.images, found)

    def evaluate_batch(self, batch: Batch) -> None:
        """Add the detections of a batch to the average precision."""
        for found, ground_truth in zip(self.detect_orig(batch), batch.ground_truths, strict=True):
            self.precision.update(found, ground_truth)

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """``AP``, ``AP50`` and the rest."""
        return self.precision.compute(), self.precision.num_images

    def reset_evaluation(self) -> None:
        """Forget the images added."""
        self.precision.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[DetectionsOrig]:
        """Detections of every image of a batch, pixels of the image file."""
        return self.detect_orig(batch)


def check_proposals(batch: Batch) -> None:
    """Raise InputError for a batch without proposals, such as those of a folder of images."""
    if len(batch.proposals) != len(batch):
        raise InputError(NO_PROPOSALS)

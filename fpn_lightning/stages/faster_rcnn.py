"""End-to-end training of Faster R-CNN: an RPN and RoI heads on one pyramid (a row that we add to Table 3).

The paper trains RPN and RoI heads one after the other (Tables 2, 3) or alternately (Table 5). In every step,
this stage minimises the sum of all losses and trains the RoI heads on the RPN's proposals of the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.coco_evaluator import Backend
from fpn_lightning.evaluation.recall_metrics import ProposalRecall
from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.evaluated import Values, to_orig
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch, Detections, Proposals

FAST_RCNN = Optimization(milestones=(60_000,))


class FasterRCNNStage(BaseStage):
    """Trains an RPN and RoI heads together, and measures the recall of proposals and the AP of detections.

    Args:
        detector: a detector with backbone, pyramid, RPN and RoI heads. In training, RoIs are sampled from all
            ``rpn.post_nms_topk`` proposals of the RPN.
        recall_limits: numbers of proposals per image for which recall is measured, such as 100 for ``AR100``.
        evaluator: library that computes AP, ``faster-coco-eval`` or the reference ``pycocotools``.
        optimization: optimiser and schedule. The default is the schedule of 80,000 steps that the paper uses for
            Fast R-CNN.
        init_from: checkpoint with the initial weights; training starts at step 0.
        seed: the run's seed, set from ``seed_everything``.
        new_classes: load ``init_from`` without its class predictor, for a data set whose classes differ from the
            checkpoint's.
        compile: compile backbone and pyramid with ``torch.compile``.
    """

    def __init__(
        self,
        detector: Detector,
        recall_limits: Sequence[int] = (10, 30, 100, 1000),
        evaluator: Backend = "faster-coco-eval",
        optimization: Optimization = FAST_RCNN,
        init_from: str | None = None,
        seed: int = 0,
        new_classes: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(
            detector, ["rpn", "roi_heads"], optimization, init_from, seed, new_classes=new_classes, compile=compile
        )
        self.recall = ProposalRecall(recall_limits, detector.scale.area_thresholds)
        self.precision = AveragePrecision(detector.scale.area_thresholds, backend=evaluator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls`` and ``loss_box_reg``.

        The RoI heads' losses have no gradient with respect to the proposals.

        If the RPN's outputs are not finite, this method sets the RPN's losses to NaN, and the RoI heads get only
        ground-truth boxes. ``on_before_optimizer_step`` then stops all processes together; an exception in one process
        would deadlock the others.
        """
        rpn, roi_heads = self.detector.rpn, self.detector.roi_heads
        assert rpn is not None
        assert roi_heads is not None
        maps = self.detector(batch.images)
        outputs = rpn(maps)
        seeds = self.sampling_seeds(batch)
        losses = rpn.losses(outputs, batch.targets, seeds)
        try:
            proposals = rpn.predict(outputs, batch.images.sizes)
        except FloatingPointError:
            losses = {name: value * math.nan for name, value in losses.items()}
            none = outputs.anchors[0].new_zeros(0)
            proposals = [Proposals(none.view(0, 4), none, none.long()) for _ in batch.targets]
        return losses | roi_heads.losses(maps, proposals, batch.targets, seeds)

    def evaluate_batch(self, batch: Batch) -> None:
        """Add the proposals of a batch to the recall metric, and the detections to the AP metric."""
        proposals, detections = self.detector.propose_and_detect(batch.images)
        for proposed, truth in zip(to_orig(batch.images, proposals), batch.ground_truths, strict=True):
            self.recall.update(proposed, truth)
        for detected, truth in zip(to_orig(batch.images, detections), batch.ground_truths, strict=True):
            self.precision.update(detected, truth)

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """Return ``AP``, ``AP50`` … of the detections, and ``AR100``, ``AR1k`` … of the proposals (as in Table 1)."""
        # Drop the AR of the detections, because AR metrics of the proposals have the same names, such as AR100.
        precision = {name: value for name, value in self.precision.compute().items() if name.startswith("AP")}
        return precision | self.recall.compute(), self.precision.num_images

    def predict(self, batch: Batch) -> list[Detections]:
        """Detect objects in every image, from the RPN's best proposals."""
        _, detections = self.detector.propose_and_detect(batch.images)
        return detections

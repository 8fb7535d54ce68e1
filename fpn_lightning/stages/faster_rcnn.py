"""Faster R-CNN trained end to end: an RPN and RoI heads on one pyramid. An extra row of ours to Table 3.

The paper trains in stages (Tables 2, 3) or by alternation (Table 5); here the losses of both heads are summed in every
step, and the RoI heads learn on the proposals of the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.coco_evaluator import Backend
from fpn_lightning.evaluation.proposal_recall import ProposalRecall
from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage, Values, to_orig
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch, Detections, Proposals

JOINT = Optimization(milestones=(60_000,))


class FasterRCNNStage(BaseStage):
    """Trains an RPN and RoI heads together, and measures the recall of proposals and the AP of detections.

    Args:
        detector: backbone, pyramid, RPN and RoI heads; these are trained on all proposals of the RPN
            (``rpn.post_nms_topk``).
        recall_limits: numbers of proposals at which their recall is measured.
        evaluator: ``faster-coco-eval``, or ``pycocotools``, the reference.
        optimization: the default is that of the paper's Fast R-CNN, with ``trainer.max_steps: 80000``.
        init_from: see :class:`BaseStage`.
        seed: see :class:`BaseStage`.
    """

    def __init__(
        self,
        detector: Detector,
        recall_limits: Sequence[int] = (10, 30, 100, 1000),
        evaluator: Backend = "faster-coco-eval",
        optimization: Optimization = JOINT,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(detector, ["rpn", "roi_heads"], optimization, init_from, seed)
        self.recall = ProposalRecall(recall_limits, detector.scale.area_thresholds)
        self.precision = AveragePrecision(detector.scale.area_thresholds, backend=evaluator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls`` and ``loss_box_reg``; no gradient passes the proposals.

        If the RPN diverges, its losses are NaN and the RoI heads are trained on ground-truth boxes only. Raising here
        would deadlock the other processes; ``on_before_optimizer_step`` stops all of them together.
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
            proposals = [no_proposals(batch.images.pixels.device) for _ in batch.targets]
        return losses | roi_heads.losses(maps, proposals, batch.targets, seeds)

    def evaluate_batch(self, batch: Batch) -> None:
        """Add the proposals of a batch to the recall and its detections to the average precision."""
        proposals, detections = self.detector.propose_and_detect(batch.images)
        for proposed, truth in zip(to_orig(batch.images, proposals), batch.ground_truths, strict=True):
            self.recall.update(proposed, truth)
        for detected, truth in zip(to_orig(batch.images, detections), batch.ground_truths, strict=True):
            self.precision.update(detected, truth)

    def evaluation_result(self) -> tuple[Values, Tensor]:
        """``AP``, ``AP50`` … of the detections; ``AR100``, ``AR1k`` … of the proposals, as in Table 1."""
        # COCO's summary of detections has an AR100 too; one name cannot mean both.
        precision = {name: value for name, value in self.precision.compute().items() if name.startswith("AP")}
        return precision | self.recall.compute(), self.precision.num_images

    def predict(self, batch: Batch) -> list[Detections]:
        """Detections of every image, from the best of its proposals."""
        _, detections = self.detector.propose_and_detect(batch.images)
        return detections


def no_proposals(device: torch.device) -> Proposals:
    """The proposals of an image in which none was found."""
    none = torch.zeros(0, device=device)
    return Proposals(none.view(0, 4), none, none.long())

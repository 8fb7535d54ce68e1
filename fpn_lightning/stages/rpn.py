"""Training of a region proposal network without RoI heads (FPN §4.1, §5.1): Table 1, Figure 1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fpn_lightning.evaluation.recall_metrics import ProposalRecall
from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch, Proposals

PAPER = Optimization()


class RPNStage(BaseStage):
    """Trains an RPN and measures the recall of its proposals.

    Args:
        detector: a detector with backbone, pyramid and RPN, and without RoI heads.
        recall_limits: numbers of proposals per image for which recall is measured, such as 100 for ``AR100``.
        optimization: optimiser and schedule. The default is the paper's schedule for 40,000 steps.
        init_from: checkpoint with the initial weights; training starts at step 0.
        seed: the run's seed, set from ``seed_everything``.
        freeze_shared: train only the RPN; backbone and pyramid keep the weights of ``init_from``.
        compile: compile backbone and pyramid with ``torch.compile``.
    """

    def __init__(
        self,
        detector: Detector,
        recall_limits: Sequence[int] = (10, 30, 100, 1000),
        optimization: Optimization = PAPER,
        init_from: str | None = None,
        seed: int = 0,
        freeze_shared: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(detector, ["rpn"], optimization, init_from, seed, freeze_shared, compile=compile)
        self.recall = ProposalRecall(recall_limits, detector.scale.area_thresholds)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss_rpn_cls`` and ``loss_rpn_loc``."""
        rpn = self.detector.rpn
        assert rpn is not None
        return rpn.losses(rpn(self.detector(batch.images)), batch.targets, self.sampling_seeds(batch))

    def predict(self, batch: Batch) -> list[Proposals]:
        """Propose at most ``post_nms_topk`` regions in every image."""
        return self.detector.propose(batch.images)

"""Training of Fast R-CNN on fixed proposals (FPN §4.2, §5.2.1): Table 2, and the detectors of Tables 3 to 5."""

from __future__ import annotations

from torch import Tensor

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.coco_evaluator import Backend
from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch, Detections

PAPER = Optimization(milestones=(60_000,))
NO_PROPOSALS = (
    "Fast R-CNN needs proposals from files. To reproduce a row of the paper's tables, set experiment.proposals_of to "
    "the RPN row whose proposals it uses, as configs/table2/c_fpn.yaml does, and run `make row ROW=TABLE/ROW`. For any "
    "other run, write the proposals of a trained RPN: for each split, run `python train.py predict --config "
    "RUN/config.yaml --ckpt_path last --data.predict_split SPLIT`, where RUN is the run directory of the RPN. Then set "
    "--data.proposals RUN/proposals. Folders of images have no proposals."
)


class FastRCNNStage(BaseStage):
    """Trains RoI heads on proposals from files, and measures average precision.

    Args:
        detector: a detector with backbone, pyramid and RoI heads, and without RPN.
        evaluator: library that computes AP, ``faster-coco-eval`` or the reference ``pycocotools``.
        optimization: optimiser and schedule. The default is the paper's schedule for 80,000 steps.
        init_from: checkpoint with the initial weights; training starts at step 0.
        seed: the run's seed, set from ``seed_everything``.
        freeze_shared: train only the heads; backbone and pyramid keep the weights of ``init_from``.
        new_classes: load ``init_from`` without its class predictor, for a data set whose classes differ from the
            checkpoint's.
        compile: compile backbone and pyramid with ``torch.compile``.
    """

    reads_proposals = True
    recall_of = "detections, mean over the classes"

    def __init__(
        self,
        detector: Detector,
        evaluator: Backend = "faster-coco-eval",
        optimization: Optimization = PAPER,
        init_from: str | None = None,
        seed: int = 0,
        freeze_shared: bool = False,
        new_classes: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(
            detector, ["roi_heads"], optimization, init_from, seed, freeze_shared, new_classes, compile=compile
        )
        self.precision = AveragePrecision(detector.scale.area_thresholds, backend=evaluator)

    def setup(self, stage: str) -> None:
        """See :meth:`BaseStage.setup`; also raises InputError if ``data.proposals`` is not set."""
        super().setup(stage)
        if self.data is not None and self.data.proposals is None:
            raise InputError(NO_PROPOSALS)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg``."""
        heads = self.detector.roi_heads
        assert heads is not None
        check_proposals(batch)
        return heads.losses(self.detector(batch.images), batch.proposals, batch.targets, self.sampling_seeds(batch))

    def predict(self, batch: Batch) -> list[Detections]:
        """Detect objects in every image by classifying and refining the proposals that were read from files."""
        check_proposals(batch)
        return self.detector.detect(batch.images, batch.proposals)


def check_proposals(batch: Batch) -> None:
    """Raise InputError if a batch has no proposals, for example a batch from a folder of images."""
    if len(batch.proposals) != len(batch):
        raise InputError(NO_PROPOSALS)

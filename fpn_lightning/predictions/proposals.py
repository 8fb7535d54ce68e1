"""Writes the proposal store ``<run>/proposals/NAME`` when an RPN runs ``predict --data.predict_split NAME``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.data.dataset import COCODataset
from fpn_lightning.data.proposals.header import ProposalHeader, read_header
from fpn_lightning.data.proposals.writer import ShardWriter, complete_store
from fpn_lightning.errors import InputError
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.rpn import RPNStage
from fpn_lightning.structures import Batch, ProposalsOrig


class ProposalStoreWriter(Callback):
    """Writes the proposals of a split batch by batch. Every process writes its own shard of the store.

    Args:
        root: folder for the proposal stores of a run, ``<run>/proposals``.
        config_sha256: digest of the configuration, see :func:`fpn_lightning.runs.recorder.config_sha256`.
        overwrite: replace an existing store even if it was made with other weights or another configuration.
    """

    def __init__(self, root: Path, config_sha256: str, overwrite: bool = False) -> None:
        self.root = root
        self.overwrite = overwrite
        self.config_sha256 = config_sha256
        self._writer: ShardWriter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """If an RPN predicts on a split, open the file for this process's proposals. Otherwise, do nothing."""
        split = trainer.datamodule.predict_split  # type: ignore[attr-defined]
        if stage == "predict" and split is not None and isinstance(pl_module, RPNStage):
            self._writer = ShardWriter(self.root / split, trainer.global_rank)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that an existing store may be replaced.

        Raises:
            InputError: the existing store was made with other weights or another configuration.
        """
        if self._writer is None or self.overwrite:
            return
        folder = self._writer.folder
        try:
            header = read_header(folder)
        except InputError:
            return  # no store exists, or it is unreadable and may be replaced
        assert isinstance(pl_module, BaseStage)
        ours = {"weights": _weights_sha256(trainer, pl_module), "configuration": self.config_sha256}
        theirs = {"weights": header.checkpoint_sha256, "configuration": header.config_sha256}
        if other := [name for name in ours if ours[name] != theirs[name]]:
            made = "; ".join(
                f"the sha256 of the {name} was {theirs[name][:12]} and is now {ours[name][:12]}" for name in other
            )
            raise InputError(
                f"{folder} contains proposals made with other weights or another configuration ({made}). To replace "
                "these proposals: --experiment.overwrite true"
            )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[ProposalsOrig],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the proposals of a batch."""
        if self._writer is not None:
            for proposals in outputs:
                arrays = (proposals.boxes_orig, proposals.objectness, proposals.levels)
                self._writer.add(proposals.image_id, *(array.numpy() for array in arrays))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Delete the shard of this process, because the store will not be completed."""
        if self._writer is not None:
            self._writer.discard()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the shard. When all processes have closed their shards, the first process completes the store."""
        if self._writer is None:
            return
        self._writer.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            data: COCODataModule = trainer.datamodule  # type: ignore[attr-defined]
            images = data.prediction_images
            assert isinstance(images, COCODataset)
            assert isinstance(pl_module, RPNStage)
            rpn = pl_module.detector.rpn
            assert rpn is not None
            described = data.describe("predict")
            header = ProposalHeader(
                data_name=described["name"],
                split=described["split"],
                fingerprint=described["fingerprint"],
                checkpoint_sha256=_weights_sha256(trainer, pl_module),
                config_sha256=self.config_sha256,
                post_nms_topk=rpn.post_nms_topk,
                nms_thresh=rpn.nms_thresh,
            )
            complete_store(self._writer.folder, trainer.world_size, header, images.index.image_ids)
        self._writer.release()


def _weights_sha256(trainer: Trainer, stage: BaseStage) -> str:
    """Return the sha256 of the file from which the model's weights were read."""
    path = trainer.ckpt_path or stage.init_from  # cli.py checks that a checkpoint or init_from is given
    with Path(str(path)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

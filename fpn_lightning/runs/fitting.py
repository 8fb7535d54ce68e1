"""Steps of ``fit`` before and after training: checks, metrics of the untrained model, final metrics, the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from torch.nn.modules.batchnorm import _BatchNorm

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.runs.csv_log import AppendingCSVLogger
from fpn_lightning.runs.directory import RECORD_NAME, last_checkpoint
from fpn_lightning.runs.record import Metrics, Record
from fpn_lightning.runs.recorder import build_record, end_of_training
from fpn_lightning.runs.speed import SpeedMonitor
from fpn_lightning.runs.wandb_log import RecordingWandbLogger
from fpn_lightning.stages.base import BaseStage


def check_inputs(trainer: Trainer, stage: BaseStage, data: COCODataModule, first: bool) -> None:
    """Open the data and load the initial weights, so that errors appear before any file is changed.

    Args:
        trainer: the trainer of the run.
        stage: the model.
        data: the data. Every process opens the data, so that invalid data ends every process. The processes are not
            connected yet: if only one failed, it could not stop the others, which would wait for it.
        first: whether this is the first process. Only the first process loads the initial weights, because they may
            have to be downloaded.

    Raises:
        InputError: if the data or the weights cannot be used, if ``data.total_batch_size`` is not a multiple of the
            number of processes × ``data.batch_size_per_device``, if no step would be taken, or if
            ``checkpoint.monitor`` is not a metric of the stage.
    """
    for key in ("max_steps", "max_epochs", "limit_train_batches"):
        if getattr(trainer, key) == 0:
            raise InputError(f"trainer.{key} is 0, so nothing would be trained. Set a larger value, or run validate.")
    monitored = getattr(trainer.checkpoint_callback, "monitor", None)
    if monitored is not None and monitored not in (names := [f"val/{name}" for name in stage.metric_names()]):
        raise InputError(f"checkpoint.monitor is {monitored}. Give one of these metrics: {', '.join(names)}")
    stage.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]  # missing in Lightning's types
    data.setup("fit")
    if first:
        stage.prepare_data()
        stage.setup("fit")


def untrained_metrics(
    run: Path, trainer: Trainer, stage: BaseStage, data: COCODataModule, evaluate: bool
) -> Metrics | None:
    """Evaluate the untrained model, or read the metrics that were stored when the run started.

    Args:
        run: directory of the run, which keeps the metrics in ``untrained.yaml``.
        trainer: the trainer of the run.
        stage: the model.
        data: the data.
        evaluate: whether to evaluate the untrained model now. If not, ``untrained.yaml`` is read.

    Returns:
        The metrics; ``None`` if the untrained model was never evaluated.
    """
    path = run / "untrained.yaml"
    if not evaluate:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    trainer.validate(stage, data, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        write_whole(path, yaml.safe_dump(stage.evaluation))
    return stage.evaluation


def finish(
    run: Path,
    trainer: Trainer,
    stage: BaseStage,
    data: COCODataModule,
    speed: SpeedMonitor,
    log: AppendingCSVLogger,
    resolved: dict[str, Any],
    untrained: Metrics | None,
) -> Record | None:
    """Save the final weights, evaluate them unless they were evaluated after the last step, and write the record.

    Args:
        run: directory of the run.
        trainer: the trainer of the run, after training.
        stage: the trained model.
        data: the data of training and evaluation.
        speed: measured seconds per step and seconds per image.
        log: the run's log.
        resolved: the resolved configuration.
        untrained: metrics before the first step; ``None`` if they were not measured.

    Returns:
        The record on the first process; ``None`` on the other processes.
    """
    ended = end_of_training(trainer)
    trainer.save_checkpoint(last_checkpoint(run), weights_only=False)
    # Each process has its own statistics of BatchNorm layers that are not frozen. ``validate`` copies the statistics
    # of the first process to all processes, so an earlier evaluation is no longer valid.
    live_norm = any(isinstance(part, _BatchNorm) and part.training for part in stage.modules())
    if stage.evaluated_step != trainer.global_step or (live_norm and trainer.world_size > 1):
        trainer.validate(stage, data, verbose=False, weights_only=True)
    if not trainer.is_global_zero:
        return None
    record = build_record(stage, data, trainer, speed, resolved, ended, log.curves(), untrained)
    record.save(run / RECORD_NAME)
    for logger in trainer.loggers:
        if isinstance(logger, RecordingWandbLogger):
            logger.finish(run / RECORD_NAME, record.metrics)
    return record

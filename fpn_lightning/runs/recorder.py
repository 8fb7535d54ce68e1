"""Builds the record of a run, ``metrics.json``."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.runs.checkout import git_commit
from fpn_lightning.runs.directory import ExperimentOptions, run_row
from fpn_lightning.runs.record import (
    FINISHED,
    OUT_OF_TIME,
    PARTIAL,
    STOPPED_EARLY,
    Data,
    Eval,
    Experiment,
    Record,
    Train,
)
from fpn_lightning.runs.speed import SpeedMonitor, peak_memory_mib
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.weights.init_from import split_source

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "pycocotools", "faster-coco-eval", "albumentations")
# Config keys that do not enter the config digest: the seed, names, paths, and the settings of machine and logging.
# These keys affect the results of a run at most as much as another seed does.
_LEFT_OUT = {
    *("seed_everything", "data.seed", "model.init_args.seed"),
    *("experiment", "wandb", "checkpoint", "detections", "pictures"),
    *("data.root", "data.proposals", "trainer.default_root_dir"),
    *("model.init_args.init_from", "model.init_args.new_classes"),
    *("data.num_workers", "data.cache_images", "model.init_args.detector.channels_last", "model.init_args.compile"),
    *("data.predict_split", "data.predict_path"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "strategy", "num_nodes", "profiler", "logger")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_progress_bar", "enable_model_summary")),
}


def hardware(device: torch.device, num_devices: int) -> str:
    """Describe the machine: ``2 × NVIDIA H100``, or ``CPU, 1 × 2 threads, x86_64`` for 1 process with 2 threads."""
    if device.type == "cuda":
        return f"{num_devices} × {torch.cuda.get_device_name(device)}"
    return f"CPU, {num_devices} × {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"


def config_sha256(resolved: dict[str, Any]) -> str:
    """Compute the SHA-256 of a resolved configuration without the keys for seed, names, paths, machine and logging.

    The runs of a row have the same digest with any seed and in any folder: every path is replaced by the text "a path".
    For proposals and initial weights, the digest only includes whether they are given. It also includes whether
    ``new_classes`` is true. The digest does not depend on whether proposals and weights are given as a path, or by
    the name of the row whose run made them.
    """

    def relevant(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            inside = {key: f"{name}.{key}".removeprefix(".") for key in value}
            return {key: relevant(value[key], inside[key]) for key in value if inside[key] not in _LEFT_OUT}
        if isinstance(value, list):
            return [relevant(item, name) for item in value]
        return "a path" if isinstance(value, str) and "/" in value else value

    experiment = resolved.get("experiment", {})
    given = {
        "proposals": bool(resolved["data"].get("proposals") or experiment.get("proposals_of")),
        "weights": bool(resolved["model"]["init_args"].get("init_from") or experiment.get("weights_of")),
    }
    if resolved["model"]["init_args"].get("new_classes"):
        given["new_classes"] = True  # not added if false, as in digests from before the option existed
    content = {"configuration": relevant(resolved, ""), "given": given}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parents(stage: BaseStage, data: COCODataModule) -> list[str]:
    """Return the run's initial checkpoint and the checkpoint that made its proposals, each with its SHA-256."""
    checkpoints = []
    if stage.init_from is not None:
        path, digest = Path(split_source(stage.init_from)[1]), "unknown"
        if path.is_file():  # a resumed run does not need this file, so the file may be missing
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        checkpoints.append(f"{stage.init_from} sha256:{digest}")
    if (store := data.proposal_store("train")) is not None:
        checkpoints.append(f"{store.folder} checkpoint sha256:{store.header.checkpoint_sha256}")
    return checkpoints


def end_of_training(trainer: Trainer) -> tuple[str, str | None]:
    """Return the status of a run after training, and the reason if the status is not ``finished``."""
    taken, asked = trainer.global_step, trainer.max_steps
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in Lightning's types
        return PARTIAL, "trainer.fast_dev_run"
    if 0 < asked <= taken:
        return FINISHED, None
    of = f"after {taken} of {asked} steps" if asked > 0 else f"after {taken} steps"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return OUT_OF_TIME, f"trainer.max_time was over {of}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            why = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return STOPPED_EARLY, f"EarlyStopping ended training {of}. {why}"
    return STOPPED_EARLY, f"training was stopped {of}"


def build_record(
    stage: BaseStage,
    data: COCODataModule,
    trainer: Trainer,
    speed: SpeedMonitor,
    resolved: dict[str, Any],
    ended: tuple[str, str | None],
    curves: dict[str, list[tuple[int, float]]],
    untrained: dict[str, float | None] | None,
) -> Record:
    """Build the record of a run after its final validation.

    Args:
        stage: the trained model, with the metrics of the final validation.
        data: the data of training and evaluation.
        trainer: the trainer of the run.
        speed: measured seconds per step and seconds per image.
        resolved: the resolved configuration.
        ended: how training ended; see :func:`end_of_training`.
        curves: for each metric name, a list of logged (step, value).
        untrained: metrics before the first step; ``None`` if they were not measured.

    Returns:
        The record. Its status is ``partial`` if training has finished but only a part of the split was evaluated.
    """
    described = data.describe("val")
    device = trainer.strategy.root_device  # Lightning has moved the model back to the CPU
    status, reason = ended if ended[0] != FINISHED else _evaluated(stage, described)
    options = ExperimentOptions(**resolved["experiment"])
    return Record(
        experiment=Experiment(
            table=options.table, row=run_row(options), preset=options.preset, seed=resolved["seed_everything"]
        ),
        status=status,
        reason=reason,
        metrics=stage.evaluation,
        area_thresholds=stage.detector.scale.area_thresholds,
        data=Data(**described),
        train=Train(
            steps=trainer.global_step,
            total_batch=data.total_batch_size,
            num_images=data.describe("train")["num_images"],
            seconds_per_step=speed.seconds_per_step or _last(curves.get("train/seconds_per_step")),
            lr=stage.optimization.lr,
        ),
        eval=Eval(seconds_per_image=speed.eval_seconds / max(stage.evaluated_images, 1)),
        peak_memory_mib=peak_memory_mib(device),
        parameters=sum(parameter.numel() for parameter in stage.parameters()),
        hardware=hardware(device, trainer.world_size),
        versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        commit=git_commit(),
        config_sha256=config_sha256(resolved),
        backbone=getattr(stage.detector.backbone, "name", type(stage.detector.backbone).__name__),
        parents=parents(stage, data),
        curves={name: points for name, points in curves.items() if name.startswith(("train/", "val/"))},
        untrained=untrained,
        per_class=stage.per_class or None,
    )


def _last(points: list[tuple[int, float]] | None) -> float | None:
    return points[-1][1] if points else None


def _evaluated(stage: BaseStage, described: dict[str, Any]) -> tuple[str, str | None]:
    if stage.evaluated_images == described["num_images"]:
        return FINISHED, None
    return PARTIAL, f"{stage.evaluated_images} of {described['num_images']} images were evaluated"


def evaluation_summary(stage: BaseStage, data: COCODataModule, split: str, checkpoint: str | None) -> str:
    """Return the result of ``validate`` or ``test`` as JSON text: metrics as fractions, data and checkpoint."""
    described = data.describe(split)
    summary = {
        "status": _evaluated(stage, described)[0],
        "metrics": stage.evaluation,
        **({"per_class": stage.per_class} if stage.per_class else {}),
        "area_thresholds": stage.detector.scale.area_thresholds,
        "data": described,
        "checkpoint": checkpoint,
    }
    return json.dumps(summary, indent=2) + "\n"

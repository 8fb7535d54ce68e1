"""Fills the run record from what a finished run knows."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.reporting.records import FINISHED, Data, Eval, Experiment, Record, Train
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.speed import SpeedMonitor, peak_memory_mib

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "pycocotools", "faster-coco-eval", "albumentations")
_MAX_CURVE_POINTS = 100


def hardware(device: torch.device, num_devices: int) -> str:
    """What the run ran on, in words: ``2 × NVIDIA H100`` or ``CPU, 2 threads, x86_64``."""
    if device.type == "cuda":
        return f"{num_devices} × {torch.cuda.get_device_name(device)}"
    return f"CPU, {num_devices} × {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"


def git_commit() -> str:
    """Commit of the checkout, with ``+changes`` where tracked files differ from it; ``unknown`` outside a checkout."""
    folder = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        # Reports and records change as runs finish; they are not what was run.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit


def config_sha256(resolved: dict[str, Any]) -> str:
    """Digest of a resolved configuration; values that are paths, which differ from machine to machine, are left out."""

    def without_paths(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: without_paths(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [without_paths(item, key) for item in value]
        return None if key in ("root", "default_root_dir", "dirpath", "proposals") else value

    return hashlib.sha256(json.dumps(without_paths(resolved), sort_keys=True).encode()).hexdigest()


def thin(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most 100 points, evenly spread, first and last among them."""
    if len(points) <= _MAX_CURVE_POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (_MAX_CURVE_POINTS - 1))] for i in range(_MAX_CURVE_POINTS)]


def build_record(
    stage: BaseStage,
    data: COCODataModule,
    trainer: Trainer,
    speed: SpeedMonitor,
    resolved: dict[str, Any],
    steps: int,
    curves: dict[str, list[tuple[int, float]]],
    untrained: dict[str, float | None] | None,
) -> Record:
    """Collect what a run measured, after its final validation.

    Args:
        stage: the trained model, with the metrics of that validation.
        data: what it was trained and evaluated on.
        trainer: the trainer of the run.
        speed: its clock.
        resolved: the resolved configuration.
        steps: optimiser steps taken.
        curves: logged values by name, points (step, value).
        untrained: metrics before the first step, where they were measured.

    Returns:
        A record; its status is ``partial`` where not the whole split was evaluated.
    """
    described = data.describe(data.val_split)
    experiment = resolved["experiment"]
    whole = stage.evaluated_images == described["num_images"]
    return Record(
        experiment=Experiment(
            table=experiment["table"],
            row=experiment["row"],
            preset=experiment["preset"],
            seed=resolved["seed_everything"],
        ),
        status=FINISHED if whole else "partial",
        metrics=stage.evaluation,
        area_thresholds=stage.area_thresholds,
        data=Data(
            name=described["name"],
            split=described["split"],
            fingerprint=described["fingerprint"],
            num_images=described["num_images"],
        ),
        train=Train(
            steps=steps,
            total_batch=data.total_batch_size,
            num_images=data.describe(data.train_split)["num_images"],
            seconds_per_step=speed.seconds_per_step,
        ),
        eval=Eval(seconds_per_image=speed.eval_seconds / max(stage.evaluated_images, 1)),
        peak_memory_mib=peak_memory_mib(stage.device),
        parameters=sum(parameter.numel() for parameter in stage.parameters()),
        hardware=hardware(stage.device, trainer.world_size),
        versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        commit=git_commit(),
        config_sha256=config_sha256(resolved),
        trunk=getattr(stage.backbone, "name", type(stage.backbone).__name__),
        curves={name: thin(points) for name, points in curves.items() if name.startswith(("train/", "val/"))},
        untrained=untrained,
    )


def evaluation_summary(stage: BaseStage, data: COCODataModule, split: str, checkpoint: str | None) -> str:
    """JSON of what ``validate`` or ``test`` measured: metrics as fractions, data and checkpoint."""
    described = data.describe(split)
    whole = stage.evaluated_images == described["num_images"]
    summary = {
        "status": FINISHED if whole else "partial",
        "metrics": stage.evaluation,
        "data": described,
        "checkpoint": checkpoint,
    }
    return json.dumps(summary, indent=2) + "\n"

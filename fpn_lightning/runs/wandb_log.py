"""Logs to Weights & Biases: one W&B run per run directory, grouped by table and named by row, preset and seed.

W&B keeps the last seconds of a log in memory, and loses them if the run is killed. Points that W&B has written offline
cannot be removed. A resumed run therefore sends all earlier lines of ``metrics.csv`` again. As a result, no point is
missing. Some points appear twice, with equal values at the same ``trainer/global_step``, which is the x axis.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb.errors
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole
from fpn_lightning.runs.csv_log import AppendingCSVLogger
from fpn_lightning.runs.directory import run_row


@dataclass
class WandbOptions:
    """Options of Weights & Biases; ``--config configs/wandb.yaml`` switches logging to W&B on."""

    enabled: bool = False
    """Log to Weights & Biases in addition to the CSV file."""
    project: str = "fpn-lightning"
    """W&B project of the runs."""
    entity: str | None = None
    """W&B team or user that owns the project; ``None`` for the default of the W&B account."""
    offline: bool = False
    """Write the log only to the run directory. To upload the log later: ``wandb sync <run>/wandb/offline-run-*``."""


class RecordingWandbLogger(WandbLogger):
    """A W&B logger that also uploads the run's record, as a file and as the summary."""

    @property
    def experiment(self) -> Any:
        """The W&B run, created when it is first used.

        Raises:
            InputError: if W&B cannot create the run, for example because the user is not logged in.
        """
        try:
            return super().experiment
        except wandb.errors.Error as error:
            raise InputError(
                f"wandb.enabled: Weights & Biases cannot be used: {error} Log in with `wandb login`, or log offline "
                "with --wandb.offline true."
            ) from error

    @rank_zero_only
    def finish(self, path: Path, metrics: dict[str, float | None]) -> None:
        """Upload the record, add its metrics to the summary of the W&B run, and end the W&B run.

        Args:
            path: ``metrics.json`` of the run.
            metrics: the record's metrics, as fractions.
        """
        self.experiment.summary.update(metrics)
        self.experiment.save(str(path), base_path=str(path.parent), policy="now")
        self.experiment.finish()


def send_again(loggers: Sequence[Logger], log: AppendingCSVLogger) -> None:
    """Send the earlier log lines of a resumed run to W&B, if logging to W&B is on."""
    for logger in loggers:
        if isinstance(logger, RecordingWandbLogger):
            for step, values in log.lines():
                logger.log_metrics(values, step)


def wandb_logger(options: Any, directory: Path, resolved: dict[str, Any]) -> RecordingWandbLogger:
    """Build the logger of a run.

    The id of the W&B run is kept in the directory, so that a resumed run continues the same W&B run.

    Args:
        options: parsed configuration with the groups ``wandb`` and ``experiment``.
        directory: the run's directory; W&B writes its own files to ``wandb/`` in this directory.
        resolved: the resolved configuration; becomes the config of the W&B run.
    """
    experiment, seed = options.experiment, f"seed{options.seed_everything}"
    # W&B would write to a temporary folder if the directory did not exist.
    directory.mkdir(parents=True, exist_ok=True)
    id_file = directory / "wandb_id"
    if not id_file.exists():
        write_whole(id_file, uuid.uuid4().hex[:8])
    return RecordingWandbLogger(
        project=options.wandb.project,
        entity=options.wandb.entity,
        offline=options.wandb.offline,
        save_dir=str(directory),
        group=experiment.table,
        name=f"{run_row(experiment)} {experiment.preset} {seed}",
        tags=[experiment.table, run_row(experiment), experiment.preset, seed],
        id=id_file.read_text(encoding="utf-8").strip(),
        resume="allow",
        config=resolved,
    )

"""Weights & Biases: one run per run directory, grouped by table and named by row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from fpn_lightning.files import write_whole


@dataclass
class WandbOptions:
    """Weights & Biases; ``--config configs/wandb.yaml`` switches it on."""

    enabled: bool = False
    """Log to Weights & Biases beside the CSV file."""
    project: str = "fpn-lightning"
    """Project the runs are compared in."""
    entity: str | None = None
    """Team or user; ``None`` is the default of the account."""
    offline: bool = False
    """Write to the run directory only; ``wandb sync <run>/wandb/offline-run-*`` uploads later."""


class RecordingWandbLogger(WandbLogger):
    """A W&B logger that ends with the run's record: its file, and its metrics as the summary."""

    @rank_zero_only
    def finish(self, path: Path, metrics: dict[str, float | None]) -> None:
        """Attach the record, put its metrics into the summary under the paper's column names, and end the W&B run.

        Args:
            path: ``metrics.json`` of the run.
            metrics: its metrics, fractions.
        """
        for name, value in metrics.items():
            self.experiment.summary[name] = value
        self.experiment.save(str(path), base_path=str(path.parent), policy="now")
        self.experiment.finish()


def wandb_logger(options: Any, directory: Path, resolved: dict[str, Any]) -> RecordingWandbLogger:
    """Build the logger of a run.

    The run's id is kept in the directory, so that resuming continues the same W&B run.

    Args:
        options: parsed configuration with the groups ``wandb`` and ``experiment``.
        directory: of the run; W&B's own files go to its ``wandb/``.
        resolved: the resolved configuration, shown as the run's config.
    """
    experiment = options.experiment
    # W&B wants the folder to be there, or falls back to a temporary one.
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
        name=experiment.row,
        tags=[experiment.table, experiment.row, experiment.preset, f"seed{options.seed_everything}"],
        id=id_file.read_text(encoding="utf-8").strip(),
        resume="allow",
        config=resolved,
    )

"""What a run is made of: the configs of a row, what it needs first, the command that trains it.

A run lives in ``runs/<preset>/<table>/<row>/seed<n>/``. Most tables are folders of ``configs/``. The others compare
rows of Table 1 under one more override: ``configs/backbones/*.yaml`` (each says in ``experiment.table`` which table its
runs belong to) and ``configs/tuning.yaml`` (``tuning/<table>/lr<learning rate>``).

A row says itself which runs of the same preset and seed it needs first: ``experiment.proposals_of`` is the row of an
RPN whose proposals it is trained on, ``experiment.weights_of`` the row whose weights it starts from.

Paths are relative to the repository, where Snakemake is called.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fpn_lightning.data.proposals.header import HEADER
from fpn_lightning.errors import InputError
from fpn_lightning.runs.presets import find_row, preset_files

CONFIGS = Path("configs")
TUNING = re.compile(r"tuning/(?P<table>[^/]+)/lr(?P<lr>[^/]+)")
# Generated data sets that presets read: what python -m fpn_lightning.data.synthetic is asked for.
DATA_SETS = {"data/synthetic-mini": "--train 5000 --val 500 --split tune=500"}
# Keys of a row's ``experiment`` that name the runs it needs.
PROPOSALS, WEIGHTS = "proposals_of", "weights_of"
# The splits a run reads, and what they are where no config names them (COCODataModule's defaults).
SPLITS = {"train_split": "train2017", "val_split": "val2017"}


@dataclass(frozen=True)
class Run:
    """One row of a table, at one scale, with one seed."""

    preset: str
    """Name of a file in ``configs/presets``."""
    table: str
    """Folder of ``configs``, or the table of a comparison (``deep_c2``, ``tuning/table1/lr0.002``)."""
    row: str
    """Name of the row's file."""
    seed: int

    @property
    def folder(self) -> Path:
        """Where the run lives, see ``fpn_lightning.runs.directory.run_directory``."""
        return Path("runs", self.preset, self.table, self.row, f"seed{self.seed}")

    @property
    def record(self) -> str:
        """The file a finished run leaves; all that Snakemake knows of it."""
        return str(self.folder / "metrics.json")

    @property
    def checkpoint(self) -> Path:
        """Its last weights."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def config_table(self) -> str:
        """Folder of ``configs`` that the row's file is in."""
        if tuned := TUNING.fullmatch(self.table):
            return tuned["table"]
        return "table1" if self.table in comparisons() else self.table

    @property
    def config(self) -> Path:
        """The row's file.

        Raises:
            InputError: if there is no such row (names those that are there), or if the paper prints the model of
                another row here, which is run once.
        """
        return find_row(CONFIGS / self.config_table / f"{self.row}.yaml")

    def overrides(self) -> list[Path]:
        """Further files for ``--config``, in order."""
        if TUNING.fullmatch(self.table):
            # A row on fixed proposals takes those of a run that no table reports either.
            fixed = [CONFIGS / "tuning" / "fast_rcnn.yaml"] if _read(self.config)["experiment"].get(PROPOSALS) else []
            return [CONFIGS / "tuning.yaml", *fixed]
        override = comparisons().get(self.table)
        return [override] if override else []

    def configs(self) -> list[Path]:
        """All files the run is configured by, in order: row, the files of its preset, overrides.

        Raises:
            InputError: if there is no such row or preset; names those that are there.
        """
        return [self.config, *preset_files(self.config, self.preset), *self.overrides()]

    def setting(self, group: str, key: str, default: str | None = None) -> str | None:
        """Value of a key, from the last of the files that has it."""
        groups = [_read(file).get(group, {}) for file in self.configs()]
        return next((values[key] for values in reversed(groups) if key in values), default)

    def splits(self) -> list[str]:
        """The splits the run is trained and validated on."""
        return [self.setting("data", key, default) or default for key, default in SPLITS.items()]

    @property
    def proposer(self) -> Run | None:
        """The run whose proposals this one trains on; ``None`` where it needs none."""
        return self._beside(self.setting("experiment", PROPOSALS))

    @property
    def source(self) -> Run | None:
        """The run whose weights this one starts from; ``None`` where they are ImageNet's or none."""
        return self._beside(self.setting("experiment", WEIGHTS))

    @property
    def shares(self) -> bool:
        """Whether detector and RPN both started from one run's weights and share features (FPN §5.2, Table 5)."""
        return self.source is not None and self.proposer is not None and self.proposer.source == self.source

    @property
    def combined(self) -> Path:
        """The Faster R-CNN of this run's detector and its proposer's RPN, where they share features."""
        return self.folder / "faster_rcnn.ckpt"

    def _beside(self, named: str | None) -> Run | None:
        if not named:
            return None
        table, _, row = named.rpartition("/")
        return Run(self.preset, table, row, self.seed)

    @property
    def proposals(self) -> Path:
        """Folder of the stores of what this run proposes, one for each split."""
        return self.folder / "proposals"

    def store(self, split: str) -> str:
        """The file that the store of a split is complete with."""
        return str(self.proposals / split / HEADER)

    def generated(self) -> list[str]:
        """The file that generated data of the preset is complete with; nothing for data from elsewhere."""
        root = str(preset(self.preset).get("data", {}).get("root"))
        return [f"{root}/synthetic.json"] if root in DATA_SETS else []

    def needs(self) -> list[str]:
        """Files that other rules have to make before the run can start: generated data, another run, its proposals."""
        stores = [self.proposer.store(split) for split in self.splits()] if self.proposer else []
        return [*self.generated(), *([self.source.record] if self.source else []), *stores]

    def inputs(self) -> list[str]:
        """All files the run is made from; none for a finished run, so that nothing can make it stale."""
        return [] if Path(self.record).exists() else [*map(str, self.configs()), *self.needs()]

    def store_inputs(self, split: str) -> list[str]:
        """What a store of this run's proposals is made from; nothing for one that is there, as for a finished run."""
        return [] if Path(self.store(split)).exists() else [self.record, *self.generated()]

    def start(self) -> str:
        """How the run begins: it goes on from its last checkpoint; what stopped before its first is started over."""
        if self.checkpoint.exists():
            return "--ckpt_path last"
        started = self.folder.is_dir() and any(path.is_file() for path in self.folder.rglob("*"))
        return "--experiment.overwrite true" if started else ""

    def command(self, extra: str = "") -> str:
        """The command line that trains the run.

        Args:
            extra: further arguments of ``train.py``.
        """
        options = [f"--config {self.config}", f"--preset {self.preset}"]
        options += [f"--config {file}" for file in self.overrides()]
        options += [f"--seed_everything {self.seed}"]
        if tuned := TUNING.fullmatch(self.table):
            options += [f"--model.init_args.optimization.lr {tuned['lr']}", f"--experiment.table {self.table}"]
        return " ".join([self._train_py(), "fit", *options, *filter(None, [self.start(), extra])])

    def predict_command(self, split: str) -> str:
        """The command line that writes the store of what the finished run proposes for a split."""
        options = [f"--config {self.folder / 'config.yaml'}", "--ckpt_path last", f"--data.predict_split {split}"]
        return " ".join([self._train_py(), "predict", *options])

    def combine_command(self) -> str:
        """The command line that makes one Faster R-CNN of the two finished runs that share features.

        Raises:
            InputError: if this run is not the last of those steps.
        """
        if not self.shares or self.proposer is None:
            raise InputError(
                f"{self.folder} shares no features with an RPN: experiment.{WEIGHTS} of both has to name the same row"
            )
        checkpoints = [self.proposer.checkpoint, self.checkpoint, self.combined]
        return " ".join([python(), "-m fpn_lightning.weights.combine", *map(str, checkpoints)])

    def _train_py(self) -> str:
        # One thread: runs side by side do not fight for cores, and the numbers do not depend on how many there are.
        environment = ["OMP_NUM_THREADS=1"]
        if devices(self.preset) > 1:
            # Under SLURM, Lightning starts a process for each device itself instead of expecting a task for each.
            environment += ["SLURM_JOB_NAME=interactive"]
        return " ".join([*environment, python(), "train.py"])


def comparisons() -> dict[str, Path]:
    """Tables that compare rows of Table 1 on another backbone, and the override that makes each."""
    overrides = sorted((CONFIGS / "backbones").glob("*.yaml"))
    return {_read(override)["experiment"]["table"]: override for override in overrides}


def preset(name: str) -> dict[str, Any]:
    """Content of a preset; empty for ``paper``, and for one that is not there, which :meth:`Run.configs` rejects."""
    file = CONFIGS / "presets" / f"{name}.yaml"
    return _read(file) if file.is_file() else {}


def devices(preset_name: str) -> int:
    """Number of GPUs, or of processes on a CPU, that a preset trains with; 1 where it leaves that open."""
    count = preset(preset_name).get("trainer", {}).get("devices", 1)
    return count if isinstance(count, int) else 1


def gpus(preset_name: str) -> int:
    """Number of GPUs that a preset asks for."""
    return devices(preset_name) if preset(preset_name).get("trainer", {}).get("accelerator") == "gpu" else 0


def cores(preset_name: str) -> int:
    """Number of CPU cores that a preset keeps busy: each process and each of its data loader's workers."""
    return devices(preset_name) * (1 + int(preset(preset_name).get("data", {}).get("num_workers", 0)))


def python() -> str:
    """The interpreter Snakemake runs with, as short as it can be said from here."""
    here = os.path.relpath(sys.executable)
    return shlex.quote(here if not here.startswith("..") else sys.executable)


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

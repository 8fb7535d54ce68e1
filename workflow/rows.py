"""Finds the config files of a run, the runs that it needs first, and the command that trains it.

Most tables are folders of ``configs/``. Other tables run rows of Table 1 with a further config file that overrides
values: a file of ``configs/backbones/`` or ``configs/learning_curves.yaml``. This override file names its table in
``experiment.table``. The tables ``tuning/<table>/lr<learning rate>`` have the override
``configs/tuning/<preset>.yaml``.

The config of a row names the rows that it needs. The needed runs have the same preset and seed.
``experiment.proposals_of`` names the row of the RPN that makes the proposals for training. ``experiment.weights_of``
names the row that provides the initial weights.

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
from fpn_lightning.runs.directory import RECORD_NAME, last_checkpoint, record_of
from fpn_lightning.runs.presets import find_row, preset_files
from fpn_lightning.runs.record import FINISHED, Experiment

CONFIGS = Path("configs")
TUNING = re.compile(r"tuning/(?P<table>[^/]+)/lr(?P<lr>[^/]+)")
# Folder of each generated data set, and the options of python -m fpn_lightning.data.synthetic that generate it.
DATA_SETS = {"data/synthetic-mini": "--train 5000 --val 500 --split tune=500"}
# Lists of COCO image ids. From each list, python -m fpn_lightning.data.subset builds a split with the name of the list.
SUBSETS = CONFIGS / "splits"
# Keys of ``experiment`` that name the rows on which a run depends.
PROPOSALS, WEIGHTS = "proposals_of", "weights_of"
# Keys of ``data`` that name the splits of a run, with COCODataModule's defaults.
SPLITS = {"train_split": "train2017", "val_split": "val2017"}


@dataclass(frozen=True)
class Run:
    """One row of a table with one preset and one seed."""

    preset: str
    """Name of a file in ``configs/presets``, or ``paper``."""
    table: str
    """Folder of ``configs``, or a table with an override file, such as ``deep_c2`` or ``tuning/table1/lr0.002``."""
    row: str
    """Name of the row's file."""
    seed: int

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return "runs" / Experiment(**vars(self)).path

    @property
    def record(self) -> str:
        """Path of the run's record, which is the only output of training that Snakemake tracks.

        Raises:
            InputError: if the record says that the run is not finished.
        """
        if (record := record_of(self.folder)) is not None and record.status != FINISHED:
            raise InputError(
                f"{self.folder} holds a run that is not finished ({record.outcome}). Delete its {RECORD_NAME} and "
                "give the same command again, which then continues the run"
            )
        return str(self.folder / RECORD_NAME)

    @property
    def checkpoint(self) -> Path:
        """Path of the run's last checkpoint."""
        return last_checkpoint(self.folder)

    @property
    def config_table(self) -> str:
        """Folder of ``configs`` that contains the row's file."""
        if tuned := TUNING.fullmatch(self.table):
            return tuned["table"]
        return "table1" if self.table in comparisons() else self.table

    @property
    def config(self) -> Path:
        """The row's file.

        Raises:
            InputError: if the row has no file. The message lists the existing rows. If another row is the same model,
                the message names the other row, whose run is used for both rows.
        """
        return find_row(CONFIGS / self.config_table / f"{self.row}.yaml")

    def overrides(self) -> list[Path]:
        """Override files of the run, in order."""
        if TUNING.fullmatch(self.table):
            # configs/tuning/<preset>/ and configs/presets/<preset>/ use the same file names for stages and rows.
            tuning = CONFIGS / "tuning"
            parts = [tuning / self.preset / file.name for file in preset_files(self.config, self.preset)[1:]]
            return [tuning / f"{self.preset}.yaml", *filter(Path.is_file, parts)]
        override = comparisons().get(self.table)
        return [override] if override else []

    def configs(self) -> list[Path]:
        """All config files of the run, in order: the row, the files of its preset, overrides.

        Raises:
            InputError: if the row or the preset does not exist. The message lists the existing rows or presets.
        """
        return [self.config, *preset_files(self.config, self.preset), *self.overrides()]

    def setting(self, group: str, key: str, default: str | None = None) -> str | None:
        """Return the value of ``<group>.<key>`` from the last config file that sets it, or the default."""
        groups = [_read(file).get(group, {}) for file in self.configs()]
        return next((values[key] for values in reversed(groups) if key in values), default)

    def splits(self) -> list[str]:
        """Return the names of the training split and the validation split."""
        return [self.setting("data", key, default) or default for key, default in SPLITS.items()]

    @property
    def proposer(self) -> Run | None:
        """The run that provides the proposals for training, if any."""
        return self._beside(self.setting("experiment", PROPOSALS))

    @property
    def source(self) -> Run | None:
        """The run that provides the initial weights, if any."""
        return self._beside(self.setting("experiment", WEIGHTS))

    @property
    def shares(self) -> bool:
        """Whether this Fast R-CNN and its RPN share features: both start from one run's weights (FPN §5.2, Table 5)."""
        return self.source is not None and self.proposer is not None and self.proposer.source == self.source

    @property
    def combined(self) -> Path:
        """Path of the Faster R-CNN that combines this run's Fast R-CNN and its RPN, if they share features."""
        return self.folder / "faster_rcnn.ckpt"

    def _beside(self, named: str | None) -> Run | None:
        if not named:
            return None
        table, _, row = named.rpartition("/")
        return Run(self.preset, table, row, self.seed)

    @property
    def proposals(self) -> Path:
        """Folder of this run's proposals, with one proposal store per split."""
        return self.folder / "proposals"

    def store(self, split: str) -> str:
        """Return the path of the header of a split's proposal store. The store is complete if the header exists."""
        return str(self.proposals / split / HEADER)

    def data(self) -> list[str]:
        """For each data set or split that a rule of the Snakefile makes, return the file that is written last.

        The list is empty for downloaded data.
        """
        root = str(preset(self.preset).get("data", {}).get("root"))
        if root in DATA_SETS:
            return [f"{root}/synthetic.json"]
        built = [split for split in self.splits() if (SUBSETS / f"{split}.txt").is_file()]
        return [f"{root}/annotations/instances_{split}.json" for split in built]

    def needs(self) -> list[str]:
        """Return the files that other rules make first: data, proposals, and the record of the run with the weights."""
        stores = [self.proposer.store(split) for split in self.splits()] if self.proposer else []
        return [*self.data(), *([self.source.record] if self.source else []), *stores]

    def inputs(self) -> list[str]:
        """Return all files that the run depends on. A finished run has none, so that it is never trained again."""
        return [] if Path(self.record).exists() else [*map(str, self.configs()), *self.needs()]

    def store_inputs(self, split: str) -> list[str]:
        """Return the files that a split's proposal store depends on. An existing store depends on no files."""
        return [] if Path(self.store(split)).exists() else [self.record, *self.data()]

    def start(self) -> str:
        """Return the option that resumes the run, or that overwrites the run if it has files but no checkpoint."""
        if self.checkpoint.exists():
            return "--ckpt_path last"
        started = self.folder.is_dir() and any(path.is_file() for path in self.folder.rglob("*"))
        return "--experiment.overwrite true" if started else ""

    def command(self, extra: str = "") -> str:
        """Return the command line that trains the run.

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
        """Return the command line that stores the finished run's proposals for a split."""
        options = [f"--config {self.folder / 'config.yaml'}", "--ckpt_path last", f"--data.predict_split {split}"]
        return " ".join([self._train_py(), "predict", *options])

    def combine_command(self) -> str:
        """Return the command line that combines this run and its RPN, which share features, into one Faster R-CNN.

        Raises:
            InputError: if this run does not share features with its RPN.
        """
        if not self.shares or self.proposer is None:
            raise InputError(
                f"{self.folder} does not share features with an RPN. The configs of both have to set the same "
                f"experiment.{WEIGHTS}."
            )
        checkpoints = [self.proposer.checkpoint, self.checkpoint, self.combined]
        return " ".join([python(), "-m fpn_lightning.weights.combine", *map(str, checkpoints)])

    def _train_py(self) -> str:
        # With one thread, parallel runs do not compete for cores, and results do not depend on the number of cores.
        environment = ["OMP_NUM_THREADS=1"]
        if devices(self.preset) > 1:
            # With this job name, Lightning starts a process per device instead of expecting a SLURM task per device.
            environment += ["SLURM_JOB_NAME=interactive"]
        return " ".join([*environment, python(), "train.py"])


def comparisons() -> dict[str, Path]:
    """Return the override file of each table that runs rows of Table 1 with an override, by table."""
    overrides = [*sorted((CONFIGS / "backbones").glob("*.yaml")), CONFIGS / "learning_curves.yaml"]
    return {_read(override)["experiment"]["table"]: override for override in overrides}


def preset(name: str) -> dict[str, Any]:
    """Return the content of a preset's file, or an empty dictionary if there is no file.

    The preset ``paper`` has no file. :meth:`Run.configs` rejects unknown presets.
    """
    file = CONFIGS / "presets" / f"{name}.yaml"
    return _read(file) if file.is_file() else {}


def devices(preset_name: str) -> int:
    """Return ``trainer.devices`` of a preset: the number of GPUs, or of processes on a CPU. The default is 1."""
    count = preset(preset_name).get("trainer", {}).get("devices", 1)
    return count if isinstance(count, int) else 1


def gpus(preset_name: str) -> int:
    """Return the number of GPUs that a preset uses."""
    return devices(preset_name) if preset(preset_name).get("trainer", {}).get("accelerator") == "gpu" else 0


def cores(preset_name: str) -> int:
    """Return the number of CPU cores that a preset uses: one for each process and each data-loading worker."""
    return devices(preset_name) * (1 + int(preset(preset_name).get("data", {}).get("num_workers", 0)))


def python() -> str:
    """Return the path of this Python interpreter. The path is relative if the interpreter is inside this folder."""
    relative = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if relative.startswith("..") else relative)


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

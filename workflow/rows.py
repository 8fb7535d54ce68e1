"""The configs of a run, the runs that it needs first, and the command that trains it.

Most tables are folders of ``configs/``. The others compare rows of Table 1 under one more override:
``configs/backbones/*.yaml`` and ``configs/learning_curves.yaml`` (``experiment.table`` in each names its table), and
``configs/tuning/<preset>.yaml`` (``tuning/<table>/lr<learning rate>``).

A row names the runs of the same preset and seed that it needs first: ``experiment.proposals_of`` is the RPN whose
proposals it trains on, ``experiment.weights_of`` the run whose weights it starts from.

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
# Generated data sets that presets read, and the options of python -m fpn_lightning.data.synthetic for each.
DATA_SETS = {"data/synthetic-mini": "--train 5000 --val 500 --split tune=500"}
# Lists of COCO images; a split of this name is built by python -m fpn_lightning.data.subset.
SUBSETS = CONFIGS / "splits"
# Keys of a row's ``experiment`` that name the runs it needs.
PROPOSALS, WEIGHTS = "proposals_of", "weights_of"
# The splits that a run reads, with COCODataModule's defaults.
SPLITS = {"train_split": "train2017", "val_split": "val2017"}


@dataclass(frozen=True)
class Run:
    """One row of a table, at one scale, with one seed."""

    preset: str
    """Name of a file in ``configs/presets``, or ``paper``."""
    table: str
    """Folder of ``configs``, or the table of a comparison (``deep_c2``, ``tuning/table1/lr0.002``)."""
    row: str
    """Name of the row's file."""
    seed: int

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return "runs" / Experiment(**vars(self)).path

    @property
    def record(self) -> str:
        """The record; the only output of a run that Snakemake knows of.

        Raises:
            InputError: if it is the record of a run that is not finished.
        """
        if (record := record_of(self.folder)) is not None and record.status != FINISHED:
            raise InputError(
                f"{self.folder} holds a run that is not finished ({record.outcome}). Delete its {RECORD_NAME}, and the "
                "same command continues it"
            )
        return str(self.folder / RECORD_NAME)

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
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
            InputError: if the row does not exist (names those that do), or is the same model as another row, which is
                run once for both.
        """
        return find_row(CONFIGS / self.config_table / f"{self.row}.yaml")

    def overrides(self) -> list[Path]:
        """Override files of the run, in order."""
        if TUNING.fullmatch(self.table):
            # The part for the stage has the same name as that of the preset.
            tuning = CONFIGS / "tuning"
            parts = [tuning / self.preset / file.name for file in preset_files(self.config, self.preset)[1:]]
            return [tuning / f"{self.preset}.yaml", *filter(Path.is_file, parts)]
        override = comparisons().get(self.table)
        return [override] if override else []

    def configs(self) -> list[Path]:
        """All config files of the run, in order: the row, the files of its preset, overrides.

        Raises:
            InputError: if the row or preset does not exist; names those that do.
        """
        return [self.config, *preset_files(self.config, self.preset), *self.overrides()]

    def setting(self, group: str, key: str, default: str | None = None) -> str | None:
        """Value of a key in the last config file that sets it."""
        groups = [_read(file).get(group, {}) for file in self.configs()]
        return next((values[key] for values in reversed(groups) if key in values), default)

    def splits(self) -> list[str]:
        """The splits that the run is trained and validated on."""
        return [self.setting("data", key, default) or default for key, default in SPLITS.items()]

    @property
    def proposer(self) -> Run | None:
        """The run whose proposals this one trains on, if any."""
        return self._beside(self.setting("experiment", PROPOSALS))

    @property
    def source(self) -> Run | None:
        """The run whose weights this one starts from, if any."""
        return self._beside(self.setting("experiment", WEIGHTS))

    @property
    def shares(self) -> bool:
        """Whether this detector and its RPN started from the same run and share features (FPN §5.2, Table 5)."""
        return self.source is not None and self.proposer is not None and self.proposer.source == self.source

    @property
    def combined(self) -> Path:
        """File of the Faster R-CNN made of this run's detector and its RPN, if they share features."""
        return self.folder / "faster_rcnn.ckpt"

    def _beside(self, named: str | None) -> Run | None:
        if not named:
            return None
        table, _, row = named.rpartition("/")
        return Run(self.preset, table, row, self.seed)

    @property
    def proposals(self) -> Path:
        """Folder of the proposals of this run, with a store for each split."""
        return self.folder / "proposals"

    def store(self, split: str) -> str:
        """The file that is written last to the store of a split."""
        return str(self.proposals / split / HEADER)

    def data(self) -> list[str]:
        """The files that are written last to generated data and to built splits; none for data that is downloaded."""
        root = str(preset(self.preset).get("data", {}).get("root"))
        if root in DATA_SETS:
            return [f"{root}/synthetic.json"]
        built = [split for split in self.splits() if (SUBSETS / f"{split}.txt").is_file()]
        return [f"{root}/annotations/instances_{split}.json" for split in built]

    def needs(self) -> list[str]:
        """Files that other rules have to make first: data, another run, its proposals."""
        stores = [self.proposer.store(split) for split in self.splits()] if self.proposer else []
        return [*self.data(), *([self.source.record] if self.source else []), *stores]

    def inputs(self) -> list[str]:
        """All files that the run depends on; none for a finished run, so that it is never run again."""
        return [] if Path(self.record).exists() else [*map(str, self.configs()), *self.needs()]

    def store_inputs(self, split: str) -> list[str]:
        """Files that a store of this run's proposals depends on; none for a store that exists."""
        return [] if Path(self.store(split)).exists() else [self.record, *self.data()]

    def start(self) -> str:
        """Option that resumes a run from its last checkpoint, or starts one over that stopped before its first."""
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
        """The command line that stores the finished run's proposals for a split."""
        options = [f"--config {self.folder / 'config.yaml'}", "--ckpt_path last", f"--data.predict_split {split}"]
        return " ".join([self._train_py(), "predict", *options])

    def combine_command(self) -> str:
        """The command line that combines the two runs that share features into one Faster R-CNN.

        Raises:
            InputError: if this run does not share features with its RPN.
        """
        if not self.shares or self.proposer is None:
            raise InputError(
                f"{self.folder} does not share features with an RPN: experiment.{WEIGHTS} of both has to be one row"
            )
        checkpoints = [self.proposer.checkpoint, self.checkpoint, self.combined]
        return " ".join([python(), "-m fpn_lightning.weights.combine", *map(str, checkpoints)])

    def _train_py(self) -> str:
        # One thread: parallel runs do not compete for cores, and the numbers do not depend on the number of cores.
        environment = ["OMP_NUM_THREADS=1"]
        if devices(self.preset) > 1:
            # Makes Lightning start a process for each device itself. Under SLURM it would expect a task for each.
            environment += ["SLURM_JOB_NAME=interactive"]
        return " ".join([*environment, python(), "train.py"])


def comparisons() -> dict[str, Path]:
    """Tables that compare rows of Table 1 under another setting, each with its override file."""
    overrides = [*sorted((CONFIGS / "backbones").glob("*.yaml")), CONFIGS / "learning_curves.yaml"]
    return {_read(override)["experiment"]["table"]: override for override in overrides}


def preset(name: str) -> dict[str, Any]:
    """Content of a preset; empty for ``paper`` and for an unknown one, which :meth:`Run.configs` rejects."""
    file = CONFIGS / "presets" / f"{name}.yaml"
    return _read(file) if file.is_file() else {}


def devices(preset_name: str) -> int:
    """Number of GPUs, or of processes on a CPU, that a preset trains with; 1 if it does not say."""
    count = preset(preset_name).get("trainer", {}).get("devices", 1)
    return count if isinstance(count, int) else 1


def gpus(preset_name: str) -> int:
    """Number of GPUs that a preset asks for."""
    return devices(preset_name) if preset(preset_name).get("trainer", {}).get("accelerator") == "gpu" else 0


def cores(preset_name: str) -> int:
    """Number of CPU cores that a preset uses: one for each process and each worker of its data loader."""
    return devices(preset_name) * (1 + int(preset(preset_name).get("data", {}).get("num_workers", 0)))


def python() -> str:
    """The interpreter that runs Snakemake; relative if it is in this folder."""
    here = os.path.relpath(sys.executable)
    return shlex.quote(here if not here.startswith("..") else sys.executable)


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

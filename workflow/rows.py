"""What a run is made of: the configs of a row, what it needs first, the command that trains it.

A run lives in ``runs/<preset>/<table>/<row>/seed<n>/``. Most tables are folders of ``configs/``. The others compare
rows of Table 1 under one more overlay: ``configs/trunks/*.yaml`` (each says in ``experiment.table`` which table its
runs belong to) and ``configs/tuning.yaml`` (``tuning/<table>/lr<learning rate>``).

Rows of Tables 2 to 5 train on fixed proposals, so they need a run of an RPN first, and the store of what it proposes.
Those of Table 5 that share features start from the weights of another run, too. Both are of the same seed.

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
from fpn_lightning.reporting.paper import paper_tables

CONFIGS = Path("configs")
TUNING = re.compile(r"tuning/(?P<table>[^/]+)/lr(?P<lr>[^/]+)")
# Generated data sets that presets read: what python -m fpn_lightning.data.synthetic is asked for.
DATA_SETS = {"data/synthetic-mini": "--train 5000 --val 500 --split tune=500"}
# The row whose proposals a row trains on, or all rows of a table (FPN §5.2; configs/table5/steps: step 1 and step 3).
PROPOSERS = {
    "table2": "table1/c_fpn",
    "table3/a_conv4": "table1/a_conv4",
    "table3/b_conv5": "table1/b_conv5",
    "table4/fpn_r101": "table5/steps/r101_rpn",
    "table5/r50_shared": "table5/steps/r50_shared_rpn",
    "table5/r101_unshared": "table5/steps/r101_rpn",
    "table5/r101_shared": "table5/steps/r101_shared_rpn",
}
# For the choice of a learning rate: a run that no table reports either.
TUNING_PROPOSER = "tuning/table1/lr0.006/c_fpn"
# The row whose weights a row starts from: step 2 of sharing features, for steps 3 and 4.
SOURCES = {
    "table5/steps/r50_shared_rpn": "table2/c_fpn",
    "table5/r50_shared": "table2/c_fpn",
    "table5/steps/r101_shared_rpn": "table5/r101_unshared",
    "table5/r101_shared": "table5/r101_unshared",
}
# Rows that are more than a row of a table, and so have their file elsewhere.
ELSEWHERE = {"table3/joint_fpn": CONFIGS / "faster_rcnn.yaml"}
# Stages that a preset may have settings of its own for, in configs/presets/<preset>/<name>.yaml.
STAGES = {
    "fpn_lightning.RPNStage": "rpn",
    "fpn_lightning.FastRCNNStage": "fast_rcnn",
    "fpn_lightning.FasterRCNNStage": "faster_rcnn",
    "fpn_lightning.MaskProposalStage": "mask_proposals",
}
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
    def _config(self) -> str:
        return f"{self.config_table}/{self.row}"

    def configs(self) -> list[str]:
        """Files for ``--config``, in order: row, preset, what the preset sets for its stage and for the row, overlay.

        Raises:
            InputError: if there is no such row or preset (names the file and those that are there), or if the paper
                prints the model of another row here, which is run once.
        """
        tables = paper_tables()
        row = tables[self.table].rows.get(self.row) if self.table in tables else None
        if row is not None and row.same_as:
            raise InputError(
                f"{self.table}/{self.row} is the model of {row.same_as}, whose runs the reports take for both: "
                f"ROW={row.same_as}"
            )
        overlay = CONFIGS / "tuning.yaml" if TUNING.fullmatch(self.table) else comparisons().get(self.table)
        own = ELSEWHERE.get(self._config, CONFIGS / f"{self._config}.yaml")
        files = [own, CONFIGS / "presets" / f"{self.preset}.yaml"]
        for file in files:
            if not file.is_file():
                there = ", ".join(names(file.parent)) or "none"
                raise InputError(f"{self.table}/{self.row}, preset {self.preset}: no {file}; there are: {there}")
        stage = STAGES.get(_read(files[0]).get("model", {}).get("class_path"), "")
        folder = CONFIGS / "presets" / self.preset
        further = [folder / f"{stage}.yaml", folder / f"{self._config}.yaml"]
        return [str(file) for file in (*files, *filter(Path.is_file, further), overlay) if file]

    def splits(self) -> list[str]:
        """The splits the run is trained and validated on."""
        data: dict[str, Any] = {}
        for file in self.configs():
            data |= _read(Path(file)).get("data", {})
        return [data.get(key, default) for key, default in SPLITS.items()]

    @property
    def proposer(self) -> Run | None:
        """The run whose proposals this one trains on; ``None`` where it needs none."""
        named = PROPOSERS.get(self._config) or PROPOSERS.get(self.config_table)
        return self._beside(TUNING_PROPOSER if named and TUNING.fullmatch(self.table) else named)

    @property
    def source(self) -> Run | None:
        """The run whose weights this one starts from; ``None`` where they are ImageNet's or none."""
        return self._beside(SOURCES.get(self._config))

    @property
    def shares(self) -> bool:
        """Whether this is the last of the steps whose heads share a trunk and a pyramid (FPN §5.2, Table 5)."""
        return self.source is not None and self.proposer is not None

    @property
    def combined(self) -> Path:
        """The Faster R-CNN of this run's detector and its proposer's RPN, where they share features."""
        return self.folder / "faster_rcnn.ckpt"

    def _beside(self, named: str | None) -> Run | None:
        if named is None:
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
        return [] if Path(self.record).exists() else [*self.configs(), *self.needs()]

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
        options = [f"--config {file}" for file in self.configs()]
        options += [f"--seed_everything {self.seed}"]
        if tuned := TUNING.fullmatch(self.table):
            options += [f"--model.init_args.optimization.lr {tuned['lr']}", f"--experiment.table {self.table}"]
        if self.source:
            options += [f"--model.init_from {self.source.checkpoint}"]
        if self.proposer:
            options += [f"--data.proposals {self.proposer.proposals}"]
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
            raise InputError(f"{self.folder} shares no features with the RPN whose proposals it takes, see SOURCES")
        checkpoints = [self.proposer.checkpoint, self.checkpoint, self.combined]
        return " ".join([python(), "-m fpn_lightning.weights.combine", *map(str, checkpoints)])

    def _train_py(self) -> str:
        # One thread: runs side by side do not fight for cores, and the numbers do not depend on how many there are.
        environment = ["OMP_NUM_THREADS=1"]
        if devices(self.preset) > 1:
            # Under SLURM, Lightning starts a process for each device itself instead of expecting a task for each.
            environment += ["SLURM_JOB_NAME=interactive"]
        return " ".join([*environment, python(), "train.py"])


def names(folder: Path) -> list[str]:
    """Names of the configs in a folder."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def comparisons() -> dict[str, Path]:
    """Tables that compare rows of Table 1 on another trunk, and the overlay that makes each."""
    overlays = sorted((CONFIGS / "trunks").glob("*.yaml"))
    return {_read(overlay)["experiment"]["table"]: overlay for overlay in overlays}


def preset(name: str) -> dict[str, Any]:
    """Content of a preset, empty if there is none of that name (see :meth:`Run.configs` for the complaint)."""
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

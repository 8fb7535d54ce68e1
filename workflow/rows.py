"""What a run is made of: the configs of a row, what it needs first, the command that trains it.

A run lives in ``runs/<preset>/<table>/<row>/seed<n>/``. Most tables are folders of ``configs/``. The others compare
rows of Table 1 under one more overlay: ``configs/trunks/*.yaml`` (each says in ``experiment.table`` which table its
runs belong to) and ``configs/tuning.yaml`` (``tuning/table1/lr<learning rate>``).

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

from fpn_lightning.errors import InputError

CONFIGS = Path("configs")
TUNING = re.compile(r"tuning/(?P<table>[^/]+)/lr(?P<lr>[^/]+)")
# Generated data sets that presets read: what python -m fpn_lightning.data.synthetic is asked for.
DATA_SETS = {"data/synthetic-mini": "--train 5000 --val 500 --split tune=500"}


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
        """Where the run lives, see ``fpn_lightning.experiment.run_directory``."""
        return Path("runs", self.preset, self.table, self.row, f"seed{self.seed}")

    @property
    def record(self) -> str:
        """The file a finished run leaves; all that Snakemake knows of it."""
        return str(self.folder / "metrics.json")

    def configs(self) -> list[str]:
        """Files for ``--config``, in order: row, preset, overlay of a comparison.

        Raises:
            InputError: if there is no such row or preset; names the file and those that are there.
        """
        overlay = comparisons().get(self.table)
        folder = CONFIGS / self.table
        if tuned := TUNING.fullmatch(self.table):
            overlay, folder = CONFIGS / "tuning.yaml", CONFIGS / tuned["table"]
        elif overlay:
            folder = CONFIGS / "table1"
        files = [folder / f"{self.row}.yaml", CONFIGS / "presets" / f"{self.preset}.yaml"]
        for file in files:
            if not file.is_file():
                there = ", ".join(names(file.parent)) or "none"
                raise InputError(f"{self.table}/{self.row}, preset {self.preset}: no {file}; there are: {there}")
        return [str(file) for file in (*files, overlay) if file]

    def needs(self) -> list[str]:
        """Files that other rules have to make before the run can start."""
        root = str(preset(self.preset).get("data", {}).get("root"))
        return [f"{root}/synthetic.json"] if root in DATA_SETS else []

    def inputs(self) -> list[str]:
        """All files the run is made from; none for a finished run, so that nothing can make it stale."""
        return [] if Path(self.record).exists() else [*self.configs(), *self.needs()]

    def start(self) -> str:
        """How the run begins: it goes on from its last checkpoint; what stopped before its first is started over."""
        if (self.folder / "checkpoints" / "last.ckpt").exists():
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
        # One thread: runs side by side do not fight for cores, and the numbers do not depend on how many there are.
        environment = ["OMP_NUM_THREADS=1"]
        if devices(self.preset) > 1:
            # Under SLURM, Lightning starts a process for each device itself instead of expecting a task for each.
            environment += ["SLURM_JOB_NAME=interactive"]
        return " ".join([*environment, python(), "train.py fit", *options, *filter(None, [self.start(), extra])])


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

"""What a run needs of another run of the same preset and seed: its proposals, its weights (``experiment.*_of``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fpn_lightning.data.proposals.header import HEADER
from fpn_lightning.errors import InputError
from fpn_lightning.runs.directory import ExperimentOptions, run_directory
from fpn_lightning.runs.presets import PAPER

# The splits whose images a subcommand reads, by the keys of ``data``.
_SPLITS = {
    "fit": ("train_split", "val_split"),
    "validate": ("val_split",),
    "test": ("test_split",),
    "predict": ("predict_split",),
}


def fill_in_needs(subcommand: str, options: Any) -> None:
    """Set ``data.proposals`` and ``model.init_from`` where the row says whose they are and nobody gave them.

    A run that continues, or that evaluates a checkpoint, has its weights: the run of ``weights_of`` need not be there.

    Args:
        subcommand: of the command line.
        options: its parsed configuration, which is changed.

    Raises:
        InputError: the other run, or its store of a split, is not there; says which commands make it.
    """
    experiment, model = ExperimentOptions(**vars(options.experiment)), options.model.init_args
    splits = [split for key in _SPLITS[subcommand] if (split := options.data[key])]
    if experiment.proposals_of and options.data.proposals is None and splits:
        needed = NeededRun(experiment, experiment.proposals_of, options.seed_everything)
        options.data.proposals = needed.proposals(splits)
    if experiment.weights_of and model.init_from is None:
        needed = NeededRun(experiment, experiment.weights_of, options.seed_everything)
        if options.ckpt_path is not None:
            model.init_from = needed.checkpoint
        elif subcommand == "fit":
            model.init_from = needed.weights()


class NeededRun:
    """The run of another row that a run depends on.

    Args:
        experiment: of the run that depends on it.
        name: the other row, ``table1/c_fpn``.
        seed: of both.
    """

    def __init__(self, experiment: ExperimentOptions, name: str, seed: int) -> None:
        self.experiment, self.name, self.seed = experiment, name, seed
        table, _, row = name.rpartition("/")
        if not table:
            raise InputError(f"{name!r} of experiment.*_of is no row; give table and row, as in table1/c_fpn")
        self.folder = Path(run_directory(replace(experiment, table=table, row=row), seed))
        self.checkpoint = str(self.folder / "checkpoints" / "last.ckpt")

    def proposals(self, splits: Sequence[str]) -> str:
        """The folder of its stores; InputError where that of a split is missing."""
        folder = self.folder / "proposals"
        if missing := [split for split in splits if not (folder / split / HEADER).is_file()]:
            stores = ", ".join(str(folder / split) for split in missing)
            commands = [] if self._finished else [self._fit_command()]
            commands += [self._predict_command(split) for split in missing]
            raise InputError(f"no proposals of {self.name} in {stores}. {self._how(commands)}")
        return str(folder)

    def weights(self) -> str:
        """Its last checkpoint; InputError where the run is missing or unfinished."""
        if not (self._finished and Path(self.checkpoint).is_file()):
            how = self._how([self._fit_command()])
            raise InputError(f"no finished run of {self.name} in {self.folder} to take the weights of. {how}")
        return self.checkpoint

    @property
    def _finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    def _fit_command(self) -> str:
        words = [f"python train.py fit --config configs/{self.name}.yaml"]
        if self.experiment.preset != PAPER:
            words.append(f"--preset {self.experiment.preset}")
        words.append(f"--seed_everything {self.seed}")
        if self.experiment.root != ExperimentOptions.root:
            words.append(f"--experiment.root {self.experiment.root}")
        if self._finished:
            words.append("--experiment.overwrite true")  # finished, but its checkpoint is gone
        elif Path(self.checkpoint).is_file():
            words.append("--ckpt_path last")
        return " ".join(words)

    def _predict_command(self, split: str) -> str:
        config = self.folder / "config.yaml"
        return f"python train.py predict --config {config} --ckpt_path last --data.predict_split {split}"

    def _how(self, commands: Sequence[str]) -> str:
        row, preset = f"{self.experiment.table}/{self.experiment.row}", self.experiment.preset
        make = f"make row ROW={row} PRESET={preset} SEED={self.seed}"
        if Path("configs").is_dir() and not Path("configs", f"{self.name}.yaml").is_file():
            return f"{self.name} is a row with overrides; the workflow makes it, in {ExperimentOptions.root}/: {make}"
        by_hand = " && ".join(commands)
        return f"Make them: {by_hand}; or let this do all of it, in {ExperimentOptions.root}/: {make}"

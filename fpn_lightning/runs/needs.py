"""Finds the runs that provide the proposals and the initial weights of another run."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from fpn_lightning.data.proposals.header import HEADER, read_header
from fpn_lightning.errors import InputError
from fpn_lightning.runs.directory import ExperimentOptions, is_finished, last_checkpoint, run_directory
from fpn_lightning.runs.presets import BASE_CONFIG, PAPER, preset_files

# For each subcommand, the keys of ``data`` that name the splits that the subcommand reads.
_SPLITS = {
    "fit": ("train_split", "val_split"),
    "validate": ("val_split",),
    "test": ("test_split",),
    "predict": ("predict_split",),
}


def fill_in_needs(subcommand: str, options: Any) -> None:
    """Set ``data.proposals`` and ``model.init_from`` from the rows named in ``experiment``.

    A key that the user has set is not changed. With ``ckpt_path``, the weights come from the checkpoint, so the run of
    the row ``weights_of`` does not have to exist.

    Args:
        subcommand: name of the subcommand.
        options: parsed configuration of the subcommand; changed in place.

    Raises:
        InputError: if the needed run does not exist, or has no proposals for a split. The message contains the commands
            that create what is missing.
    """
    experiment, model = ExperimentOptions(**vars(options.experiment)), options.model.init_args
    splits = [split for key in _SPLITS[subcommand] if (split := options.data[key])]
    if experiment.proposals_of and splits:
        needed = NeededRun(experiment, experiment.proposals_of, options.seed_everything, options.data.root)
        if options.data.proposals is None:
            options.data.proposals = needed.proposals(splits)
        elif needed.is_of_another_seed(options.data.proposals):
            rank_zero_warn(
                f"The proposals in {options.data.proposals} were made with another seed than this run's seed "
                f"{needed.seed}. For proposals of the same seed, leave out data.proposals"
            )
    if experiment.weights_of and model.init_from is None:
        needed = NeededRun(experiment, experiment.weights_of, options.seed_everything, options.data.root)
        if options.ckpt_path is not None:
            model.init_from = needed.checkpoint
        elif subcommand == "fit":
            model.init_from = needed.weights()


class NeededRun:
    """A run that another run depends on.

    Args:
        experiment: options under ``experiment`` in the configuration of the run that needs the other run.
        name: row of the needed run, for example ``table1/c_fpn``.
        seed: seed of both runs.
        data_root: folder of the data. If the files of row and preset set another folder, the commands in messages have
            the option ``--data.root`` with the value of ``data_root``.

    Raises:
        InputError: if ``name`` is not a table and a row, separated by ``/``.
    """

    def __init__(self, experiment: ExperimentOptions, name: str, seed: int, data_root: str | None = None) -> None:
        self.experiment, self.name, self.seed, self.data_root = experiment, name, seed, data_root
        table, _, row = name.rpartition("/")
        if not table:
            raise InputError(
                f"experiment.proposals_of or weights_of: {name!r} is not a row; give table and row, as in table1/c_fpn"
            )
        self.folder = Path(run_directory(replace(experiment, table=table, row=row, variant=""), seed))
        self.checkpoint = str(last_checkpoint(self.folder))

    def proposals(self, splits: Sequence[str]) -> str:
        """Return the folder of the run's proposals.

        Raises:
            InputError: if a split has no proposals, or if its proposals were not made with the run's last checkpoint.
        """
        folder = self.folder / "proposals"
        missing = [split for split in splits if not (self._finished and (folder / split / HEADER).is_file())]
        if missing:
            stores = ", ".join(str(folder / split) for split in missing)
            commands = [] if self._usable else [self._fit_command()]
            commands += [self._predict_command(split) for split in missing]
            reason = "no proposals" if self._finished else "no finished run and no proposals"
            raise InputError(f"{self.name} has {reason} in {stores}. {self._how(commands)}")
        self._check_weights([folder / split for split in splits])
        return str(folder)

    def _check_weights(self, stores: Sequence[Path]) -> None:
        """Reject stored proposals that were not made with the run's last checkpoint."""
        if not Path(self.checkpoint).is_file():
            return
        with Path(self.checkpoint).open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        for store in stores:
            if (header := read_header(store)).checkpoint_sha256 != own:
                raise InputError(
                    f"{store}: the proposals were made with other weights (sha256 {header.checkpoint_sha256[:12]}) "
                    f"than {self.checkpoint} ({own[:12]}). Make the proposals again: "
                    f"{self._predict_command(store.name)} --experiment.overwrite true"
                )

    def is_of_another_seed(self, proposals: str) -> bool:
        """Return whether a folder of proposals belongs to the same row with another seed."""
        run = Path(proposals).parent
        return run.parent == self.folder.parent and run != self.folder

    def weights(self) -> str:
        """Return the path of the last checkpoint. Raise InputError if it is missing or the run is not finished."""
        if not self._usable:
            how = self._how([self._fit_command()])
            raise InputError(f"{self.name} has no finished run in {self.folder} to take weights from. {how}")
        return self.checkpoint

    @property
    def _finished(self) -> bool:
        return is_finished(self.folder)

    @property
    def _usable(self) -> bool:
        return self._finished and Path(self.checkpoint).is_file()

    def _fit_command(self) -> str:
        words = [f"python train.py fit --config configs/{self.name}.yaml"]
        if self.experiment.preset != PAPER:
            words.append(f"--preset {self.experiment.preset}")
        words.append(f"--seed_everything {self.seed}")
        if self.experiment.root != ExperimentOptions.root:
            words.append(f"--experiment.root {shlex.quote(self.experiment.root)}")
        if self._finished:
            words.append("--experiment.overwrite true")  # the run has finished, but its checkpoint is missing
        elif Path(self.checkpoint).is_file():
            words.append("--ckpt_path last")
        return " ".join(words + self._root_option())

    def _predict_command(self, split: str) -> str:
        config = shlex.quote(str(self.folder / "config.yaml"))
        words = [f"python train.py predict --config {config} --ckpt_path last --data.predict_split {split}"]
        return " ".join(words + self._root_option())

    def _root_option(self) -> list[str]:
        """Return the option ``--data.root``, or no option if the files of row and preset already set this folder."""
        row = Path("configs", f"{self.name}.yaml")
        files = [BASE_CONFIG, row] if row.is_file() else [BASE_CONFIG]
        with suppress(InputError):  # the preset may be unknown
            files += preset_files(row, self.experiment.preset) if row.is_file() else []
        groups = [yaml.safe_load(file.read_text(encoding="utf-8")).get("data") or {} for file in files]
        usual = next(group["root"] for group in reversed(groups) if "root" in group)
        return [] if self.data_root in (None, usual) else [f"--data.root {shlex.quote(str(self.data_root))}"]

    def _how(self, commands: Sequence[str]) -> str:
        row, preset = f"{self.experiment.table}/{self.experiment.row}", self.experiment.preset
        make = f"make row ROW={row} PRESET={preset} SEED={self.seed}"
        if Path("configs").is_dir() and not Path("configs", f"{self.name}.yaml").is_file():
            return (
                f"configs/{self.name}.yaml does not exist, because {self.name} is another row with changed options. To "
                f"create what is missing and train {row}, in the folder {ExperimentOptions.root}/: {make}"
            )
        by_hand = " && ".join(commands)
        return (
            f"Run: {by_hand}; or create what is missing and train {row}, in the folder {ExperimentOptions.root}/, "
            f"with: {make}"
        )

"""The command line: LightningCLI extended by presets, run directories, records of runs, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.drawing.callback import PictureCallback
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import cannot_write, set_aside, write_whole
from fpn_lightning.parser import Parser, with_file
from fpn_lightning.predictions.coco_server import ServerFileWriter
from fpn_lightning.predictions.detections import DetectionsWriter
from fpn_lightning.predictions.proposals import ProposalStoreWriter
from fpn_lightning.runs.checkpoints import RunCheckpoint, WholeCheckpointIO
from fpn_lightning.runs.claim import check_steps, claimed
from fpn_lightning.runs.console import MetricsTable, print_evaluation, print_record, set_up_logging
from fpn_lightning.runs.csv_log import AppendingCSVLogger
from fpn_lightning.runs.directory import (
    RECORD_NAME,
    ExperimentOptions,
    linked_checkpoint_directory,
    linked_run_directory,
    run_row,
)
from fpn_lightning.runs.fitting import check_inputs, finish, untrained_metrics
from fpn_lightning.runs.machine import named_errors
from fpn_lightning.runs.options import check_run_directory, complete_options, find_checkpoint, is_first_process
from fpn_lightning.runs.presets import BASE_CONFIG, SUBCOMMANDS, PresetAction, expand_preset
from fpn_lightning.runs.processes import ProcessWatch
from fpn_lightning.runs.recorder import config_sha256, evaluation_summary
from fpn_lightning.runs.signals import Stopped, handled_by, stop_now
from fpn_lightning.runs.speed import SpeedMonitor, StepProgressBar, stop_bar
from fpn_lightning.runs.wandb_log import WandbOptions, send_again, wandb_logger
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.stages.total_batch import planned_steps
from fpn_lightning.text import show


class CLI(LightningCLI):
    """LightningCLI extended by run directories, presets, records of runs, and files of predictions."""

    model: BaseStage
    datamodule: COCODataModule
    subcommand: str
    # A class variable, because main() uses it even if a subcommand fails; then the constructor has returned no object.
    watch: ClassVar[ProcessWatch | None] = None

    def __init__(self, args: Sequence[str]) -> None:
        """Parse the arguments and run the subcommand.

        Args:
            args: arguments without the program's name; :func:`expand_preset` has already replaced ``--preset``.
        """
        # Build only the parser of the called subcommand, because building a parser takes a quarter of a second.
        self.called = [name for name in SUBCOMMANDS if name in args[:1]] or SUBCOMMANDS
        super().__init__(
            BaseStage,
            COCODataModule,
            parser_class=Parser,
            subclass_mode_model=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={name: {"default_config_files": [str(BASE_CONFIG)]} for name in self.called},
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """For each subcommand in ``called``, return the arguments of its Trainer method that do not become options."""
        every = LightningCLI.subcommands()
        return {name: every[name] | {"verbose"} for name in self.called}  # replaced by our --verbose

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of this package: groups of options, callbacks, and options computed from other options."""
        parser.add_argument(
            "--preset", action=PresetAction, help="scale of the run: mini, 8gpu or another file in configs/presets"
        )
        parser.add_argument("--verbose", type=bool, default=False, help="print the AP of every class")
        parser.add_argument("--experiment", type=ExperimentOptions)
        parser.add_argument("--wandb", type=WandbOptions, default=WandbOptions())
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(DetectionsWriter, "detections")
        parser.add_lightning_class_args(PictureCallback, "pictures")
        run = ("experiment", "seed_everything")
        parser.link_arguments(run, "trainer.default_root_dir", compute_fn=linked_run_directory)
        parser.link_arguments(run, "checkpoint.dirpath", compute_fn=linked_checkpoint_directory)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("data.num_classes", "model.init_args.detector.num_classes")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments. LightningCLI's own method would print a warning, because ``args`` is always given."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing. LightningCLI's own method would import a class named in the checkpoint, which is unsafe."""

    # ---- before the model and the data are built -------------------------------------------------------------------

    @property
    def options(self) -> Any:
        """The parsed configuration of the subcommand."""
        return self.config[self.subcommand]

    @property
    def run(self) -> Path:
        """Directory of the run."""
        return Path(self.options.trainer.default_root_dir)

    def _title(self) -> str:
        return f"{self.options.experiment.table}/{run_row(self.options.experiment)}"

    @property
    def output(self) -> Path:
        """Output folder: for ``fit`` the run directory, otherwise ``experiment.output`` or ``<run>/<subcommand>``."""
        if self.subcommand == "fit":
            return self.run
        return Path(self.options.experiment.output or self.run / self.subcommand)

    def before_instantiate_classes(self) -> None:
        """Check and complete the options before the model and the data are built."""
        complete_options(self.subcommand, self.options, self.run, self.output)
        if self.subcommand == "fit" and is_first_process():
            check_run_directory(self.options, self.run, self.resolved_config)
        self.checkpoint_step = find_checkpoint(self.subcommand, self.options, self.run)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with our loggers, callbacks and checkpoint writer."""
        self.speed = SpeedMonitor()
        # fit creates its loggers after all checks, because loggers write to the run directory.
        kwargs["logger"] = False if self.subcommand == "fit" else self._loggers()
        kwargs["default_root_dir"] = str(self.output)
        trainer = self.config_init[self.subcommand].trainer
        configured = trainer.callbacks or []
        plugins = trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpointIO()]
        callbacks = [*(configured if isinstance(configured, list) else [configured]), self.speed]
        if self.subcommand == "predict":
            digest = config_sha256(self.resolved_config())
            callbacks.append(ProposalStoreWriter(self.run / "proposals", digest, self.options.experiment.overwrite))
        if self.subcommand == "test":
            callbacks.append(ServerFileWriter(run_row(self.options.experiment)))
        if trainer.enable_progress_bar is not False:
            callbacks.append(StepProgressBar(refresh_rate=5))
        if self.subcommand == "fit":
            callbacks.append(MetricsTable(self._title(), self.options.verbose))
        kwargs["callbacks"] = callbacks
        with named_errors(trainer):
            built = super().instantiate_trainer(**kwargs)
        if built.world_size > 1:
            CLI.watch = ProcessWatch(lambda: stop_bar(built))
        return built

    def _loggers(self) -> list[Logger]:
        self.csv = AppendingCSVLogger(self.output, self.checkpoint_step if self.subcommand == "fit" else None)
        loggers: list[Logger] = [self.csv]
        if self.options.wandb.enabled:
            loggers.append(wandb_logger(self.options, self.output, self.resolved_config()))
        return loggers

    def resolved_config(self) -> dict[str, Any]:
        """Return the whole configuration as dicts, lists and scalars, including options computed from other options."""
        text = self._parser(self.subcommand).dump(self.options, skip_link_targets=False, skip_none=False)
        resolved = yaml.safe_load(text)
        # These keys belong to this call of the command line, not to the configuration of the run.
        for key in ("config", "ckpt_path", "weights_only", "verbose", "return_predictions"):
            resolved.pop(key, None)
        resolved["experiment"].pop("overwrite", None)
        return resolved

    def after_instantiate_classes(self) -> None:
        """Tell the model whether a checkpoint is loaded. Reject ``data.proposals`` if the model reads no proposals."""
        self.model.resumes = self.options.ckpt_path is not None
        if self.options.data.proposals is not None and not self.model.reads_proposals:
            raise InputError(
                f"data.proposals is {self.options.data.proposals}, but {type(self.model).__name__} reads no proposals: "
                "leave out data.proposals and experiment.proposals_of"
            )

    # ---- fit -------------------------------------------------------------------------------------------------------

    def fit(self, **arguments: Any) -> None:
        """Check all inputs, then train in the run directory and write the run's record, ``metrics.json``."""
        trainer, first, resumed_at = self.trainer, is_first_process(), self.checkpoint_step
        check_inputs(trainer, self.model, self.datamodule, first)
        if first and resumed_at is not None:
            check_steps(self.run, resumed_at, planned_steps(trainer, self.datamodule, self.model.optimization))
        overwrite, resumes = self.options.experiment.overwrite, resumed_at is not None
        claim = partial(claimed, self.run, overwrite, resumes, lambda: trainer.global_step > (resumed_at or 0))
        with claim() if first else nullcontext() as failed:
            if failed is not None and CLI.watch is not None:
                CLI.watch.cleanups.append(failed)
            loggers = self._loggers()
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in Lightning's types
                trainer.loggers = loggers
                if resumes:
                    send_again(loggers, self.csv)
            config = self.resolved_config()
            if first:
                write_whole(self.run / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            evaluate = self.options.experiment.evaluate_untrained and not resumes
            untrained = untrained_metrics(self.run, trainer, self.model, self.datamodule, evaluate)
            trainer.fit(**arguments)
            if not trainer.interrupted:
                record = finish(self.run, trainer, self.model, self.datamodule, self.speed, self.csv, config, untrained)
                if record is not None:
                    print_record(record, self.run / RECORD_NAME, self.model, self.options.verbose)

    # ---- validate, test --------------------------------------------------------------------------------------------

    def validate(self, **arguments: Any) -> None:
        """Evaluate ``data.val_split``."""
        self.trainer.validate(**arguments, verbose=False)

    def test(self, **arguments: Any) -> None:
        """Evaluate ``data.test_split``."""
        self.trainer.test(**arguments, verbose=False)

    def after_validate(self) -> None:
        """Write the metrics to ``metrics.json`` in the output folder."""
        self._write_summary("val")

    def after_test(self) -> None:
        """If the split has annotations, write the metrics to ``metrics.json`` in the output folder."""
        if self.datamodule.has_annotations("test"):
            self._write_summary("test")

    def _write_summary(self, split: str) -> None:
        if self.trainer.is_global_zero:
            path = self.output / "metrics.json"
            set_aside(path)
            write_whole(path, evaluation_summary(self.model, self.datamodule, split, self.options.ckpt_path))
            print_evaluation(self._title(), self.model, self.options.verbose)
            show(f"written to {path}")


def main(args: Sequence[str] | None = None) -> CLI:
    """Run the command line.

    Args:
        args: arguments without the program's name; by default the arguments of this process.

    Raises:
        SystemExit: with code 2 and an error message if the user has to fix the input, with code 130 after Ctrl-C, and
            with code 143 after SIGTERM.
    """
    set_up_logging()
    words: list[str] = []
    try:
        words = expand_preset(sys.argv[1:] if args is None else args)
        with handled_by(stop_now):
            cli = CLI(words)
    except Exception as error:
        complaint = _input_error(error)
        if complaint is not None:
            complaint = InputError(with_file(str(complaint), words))
        if CLI.watch is not None:
            CLI.watch.fail(error, complaint)
        if complaint is None:
            raise
        sys.exit(complain(complaint))
    except Stopped as stop:
        if CLI.watch is not None:
            CLI.watch.end(stop.code, stop.advice)
        with suppress(OSError):  # the terminal may be closed
            print(stop.advice, file=sys.stderr, end="\n" if stop.advice else "", flush=True)
        raise
    if CLI.watch is not None:
        CLI.watch.done()
    return cli


def _input_error(error: BaseException | None) -> BaseException | None:
    """Return the cause of an error if the user can fix this cause; otherwise ``None``.

    jsonargparse wraps the errors of constructors in its own errors.
    """
    ours = InputError | FloatingPointError | MisconfigurationException
    while error is not None and not isinstance(error, ours):
        if isinstance(error, OSError) and (unwritable := cannot_write(error)) is not None:
            return unwritable
        if isinstance(error, OSError) and error.filename is not None:
            return error  # for example, because a file name is too long
        error = error.__cause__
    return error

"""The command line: LightningCLI with presets, run directories, records and one-line errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.drawing.callback import PictureCallback
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import cannot_write, write_whole
from fpn_lightning.predictions.coco_server import ServerFileWriter
from fpn_lightning.predictions.detections import DetectionsWriter, check_source
from fpn_lightning.predictions.proposals import ProposalStoreWriter
from fpn_lightning.runs.checkpoints import RunCheckpoint, WholeCheckpointIO, newest_checkpoint, steps_taken
from fpn_lightning.runs.console import print_metrics, set_up_logging
from fpn_lightning.runs.csv_log import AppendingCSVLogger
from fpn_lightning.runs.directory import (
    ExperimentOptions,
    check_same_config,
    claim_run_directory,
    last_checkpoint,
    linked_checkpoint_directory,
    linked_run_directory,
    run_directory,
)
from fpn_lightning.runs.needs import fill_in_needs
from fpn_lightning.runs.presets import SUBCOMMANDS, PresetAction, expand_preset
from fpn_lightning.runs.recorder import build_record, config_sha256, evaluation_summary
from fpn_lightning.runs.signals import handled_by, stop_now
from fpn_lightning.runs.speed import SpeedMonitor, StepProgressBar
from fpn_lightning.runs.wandb_log import RecordingWandbLogger, WandbOptions, wandb_logger
from fpn_lightning.stages.base import BaseStage

BASE_CONFIG = Path(__file__).with_name("base.yaml")


class CLI(LightningCLI):
    """LightningCLI with run directories, presets, records and writers of predictions."""

    model: BaseStage
    datamodule: COCODataModule
    subcommand: str

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``fit``, ``validate``, ``test`` and ``predict``."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in SUBCOMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our own groups of arguments, the named callbacks and the links between arguments."""
        parser.add_argument(
            "--preset", action=PresetAction, help="scale of the row, a file in configs/presets: mini, 8gpu, ..."
        )
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
        """Parse the arguments. LightningCLI's own method would warn, because we always pass them."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: LightningCLI's own method imports the class that a checkpoint names."""

    # ---- before anything is built ----------------------------------------------------------------------------------

    @property
    def options(self) -> Any:
        """The parsed configuration of the subcommand."""
        return self.config[self.subcommand]

    @property
    def run(self) -> Path:
        """Directory of the run."""
        return Path(self.options.trainer.default_root_dir)

    def _title(self) -> str:
        return f"{self.options.experiment.table}/{self.options.experiment.row}"

    @property
    def output(self) -> Path:
        """Where the subcommand writes: the run directory for ``fit``, ``<run>/<subcommand>`` for the others."""
        return self.run if self.subcommand == "fit" else self.run / self.subcommand

    def before_instantiate_classes(self) -> None:
        """Check the options and claim the run directory, before anything slow starts."""
        options = self.options
        run_directory(options.experiment, options.seed_everything)
        check_source(self.subcommand, options.data.predict_split, options.data.predict_path)
        if self.subcommand == "predict":
            options.return_predictions = False  # the writers have written them
        options.weights_only = True  # our checkpoints load without running code from them
        if "verbose" in options:
            options.verbose = False  # we print our own table of metrics
        last = last_checkpoint(self.run)
        if self.subcommand == "fit" and options.ckpt_path not in (None, "last", str(last)):
            raise InputError(
                "fit only resumes its own run: --ckpt_path last. Weights of another run: --model.init_from PATH"
            )
        if options.ckpt_path is None and self.subcommand != "fit" and not options.model.init_args.init_from:
            raise InputError(f"{self.subcommand} needs weights: --ckpt_path last (or a file) or --model.init_from PATH")
        fill_in_needs(self.subcommand, options)
        if self.subcommand == "fit" and _get_rank() in (None, 0):
            claim_run_directory(self.run, options.experiment.overwrite, resume=options.ckpt_path is not None)
        if options.ckpt_path in ("last", str(last)):
            options.ckpt_path = str(newest_checkpoint(self.run))
        if options.ckpt_path is not None:
            self.checkpoint_step = steps_taken(options.ckpt_path, resumes=self.subcommand == "fit")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with our loggers and writers; only ``fit`` writes to the run directory itself."""
        self.speed = SpeedMonitor()
        kwargs["logger"] = self._loggers()
        kwargs["default_root_dir"] = str(self.output)
        trainer = self.config_init[self.subcommand].trainer
        configured = trainer.callbacks or []
        plugins = trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpointIO()]
        kwargs["callbacks"] = [*(configured if isinstance(configured, list) else [configured]), self.speed]
        if self.subcommand == "predict":
            kwargs["callbacks"].append(
                ProposalStoreWriter(self.run / "proposals", config_sha256(self.resolved_config()))
            )
        if self.subcommand == "test":
            kwargs["callbacks"].append(ServerFileWriter(self.options.experiment.row))
        if trainer.enable_progress_bar is not False:
            kwargs["callbacks"].append(StepProgressBar(refresh_rate=5))
        return super().instantiate_trainer(**kwargs)

    def _loggers(self) -> list[Logger]:
        resumes = self.subcommand == "fit" and self.options.ckpt_path is not None
        self.csv = AppendingCSVLogger(self.output, self.checkpoint_step if resumes else None)
        loggers: list[Logger] = [self.csv]
        if self.options.wandb.enabled:
            loggers.append(wandb_logger(self.options, self.output, self.resolved_config()))
        return loggers

    def resolved_config(self) -> dict[str, Any]:
        """The whole configuration, including linked values, as plain types."""
        text = self._parser(self.subcommand).dump(self.options, skip_link_targets=False, skip_none=False)
        resolved = yaml.safe_load(text)
        # These say how the command was called, not what was run.
        for key in ("config", "ckpt_path", "weights_only", "verbose", "return_predictions"):
            resolved.pop(key, None)
        resolved["experiment"].pop("overwrite", None)
        return resolved

    def after_instantiate_classes(self) -> None:
        """Tell the model whether its weights come from a checkpoint."""
        self.model.resumes = self.options.ckpt_path is not None

    # ---- fit -------------------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Write the resolved configuration; evaluate the untrained model if the experiment wants it."""
        if _get_rank() in (None, 0):
            if self.model.resumes:
                check_same_config(self.run / "config.yaml", self.resolved_config())
            write_whole(self.run / "config.yaml", yaml.safe_dump(self.resolved_config(), sort_keys=False))
        self.untrained: dict[str, float | None] | None = None
        if self.options.experiment.evaluate_untrained and not self.model.resumes:
            self.trainer.validate(self.model, self.datamodule, verbose=False, weights_only=True)
            self.untrained = self.model.evaluation
            if self.trainer.is_global_zero:
                write_whole(self.run / "untrained.yaml", yaml.safe_dump(self.untrained))
        elif (self.run / "untrained.yaml").exists():
            self.untrained = yaml.safe_load((self.run / "untrained.yaml").read_text())

    def after_fit(self) -> None:
        """Save the final weights, evaluate them once and write the record."""
        trainer = self.trainer
        trainer.save_checkpoint(last_checkpoint(self.run), weights_only=False)
        steps = trainer.global_step
        trainer.validate(self.model, self.datamodule, verbose=False, weights_only=True)
        if not trainer.is_global_zero:
            return
        curves = self.csv.curves()
        record = build_record(
            self.model, self.datamodule, trainer, self.speed, self.resolved_config(), steps, curves, self.untrained
        )
        record.save(self.run / "metrics.json")
        for logger in trainer.loggers:
            if isinstance(logger, RecordingWandbLogger):
                logger.finish(self.run / "metrics.json", record.metrics)
        print_metrics(self._title(), self.model.evaluation, self.run / "metrics.json")

    # ---- validate, test --------------------------------------------------------------------------------------------

    def after_validate(self) -> None:
        """Write the metrics to ``validate/metrics.json``."""
        self._write_summary("val")

    def after_test(self) -> None:
        """Write the metrics beside the run's own; without annotations there are none."""
        if self.datamodule.has_annotations("test"):
            self._write_summary("test")

    def _write_summary(self, split: str) -> None:
        if self.trainer.is_global_zero:
            path = self.output / "metrics.json"
            write_whole(path, evaluation_summary(self.model, self.datamodule, split, self.options.ckpt_path))
            print_metrics(self._title(), self.model.evaluation, path)


def main(args: Sequence[str] | None = None) -> CLI:
    """Run the command line.

    Args:
        args: arguments without the program's name; by default those of the process.

    Raises:
        SystemExit: with code 2 and a one-line message, for input that the user has to fix; with 130 or 143 after Ctrl-C
            or SIGTERM.
    """
    set_up_logging()
    try:
        with handled_by(stop_now):
            return CLI(
                BaseStage,
                COCODataModule,
                subclass_mode_model=True,
                save_config_callback=None,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                parser_kwargs={name: {"default_config_files": [str(BASE_CONFIG)]} for name in CLI.subcommands()},
                args=expand_preset(sys.argv[1:] if args is None else args),
            )
    except OSError as error:
        if (unwritable := cannot_write(error)) is None:
            raise
        sys.exit(complain(unwritable))
    except (ValueError, RuntimeError, FloatingPointError, MisconfigurationException) as error:
        if (complaint := _input_error(error)) is None:
            raise
        sys.exit(complain(complaint))


def _input_error(error: BaseException | None) -> BaseException | None:
    """Find the error that the user can fix; jsonargparse wraps errors from constructors in its own."""
    while error is not None and not isinstance(error, InputError | FloatingPointError | MisconfigurationException):
        error = error.__cause__
    return error

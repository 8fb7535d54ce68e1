"""The command line: LightningCLI with run directories, named callbacks, records and clear errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.drawing.callback import PictureCallback
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import write_whole
from fpn_lightning.predictions.coco_server import ServerFileWriter
from fpn_lightning.predictions.detections import DetectionsWriter, check_source
from fpn_lightning.predictions.proposals import ProposalStoreWriter
from fpn_lightning.runs.console import print_metrics, set_up_logging
from fpn_lightning.runs.csv_log import AppendingCSVLogger
from fpn_lightning.runs.directory import (
    ExperimentOptions,
    checkpoint_step,
    claim_run_directory,
    linked_checkpoint_directory,
    linked_run_directory,
    refuse_other_config,
    run_directory,
)
from fpn_lightning.runs.needs import fill_in_needs
from fpn_lightning.runs.presets import SUBCOMMANDS, PresetAction, expand_preset
from fpn_lightning.runs.recorder import build_record, config_sha256, evaluation_summary
from fpn_lightning.runs.speed import SpeedMonitor, StepProgressBar
from fpn_lightning.runs.wandb_log import WandbOptions, wandb_logger
from fpn_lightning.stages.base import BaseStage

BASE_CONFIG = Path(__file__).with_name("base.yaml")


class CLI(LightningCLI):
    """Adds to LightningCLI what a reproduction needs around a run."""

    model: BaseStage
    datamodule: COCODataModule
    subcommand: str

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``fit``, ``validate``, ``test`` and ``predict``."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in SUBCOMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups of our own, the named callbacks and the links between arguments."""
        parser.add_argument(
            "--preset", action=PresetAction, help="scale of the row, a file of configs/presets: mini, 8gpu, ..."
        )
        parser.add_argument("--experiment", type=ExperimentOptions)
        parser.add_argument("--wandb", type=WandbOptions, default=WandbOptions())
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(DetectionsWriter, "detections")
        parser.add_lightning_class_args(PictureCallback, "pictures")
        run = ("experiment", "seed_everything")
        parser.link_arguments(run, "trainer.default_root_dir", compute_fn=linked_run_directory)
        parser.link_arguments(run, "checkpoint.dirpath", compute_fn=linked_checkpoint_directory)
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("data.num_classes", "model.init_args.detector.num_classes")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; they are always handed over, which LightningCLI would warn of."""
        self.config = parser.parse_args(args)

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
        """Where this subcommand writes: the run directory for ``fit``, a folder in it for every other."""
        return self.run if self.subcommand == "fit" else self.run / self.subcommand

    def before_instantiate_classes(self) -> None:
        """Claim the run directory; a refusal costs no time."""
        options = self.options
        run_directory(options.experiment, options.seed_everything)
        check_source(self.subcommand, options.data.predict_split, options.data.predict_path)
        if self.subcommand == "predict":
            options.return_predictions = False  # they are written as they come
        options.weights_only = True  # nothing in a checkpoint of ours needs code to be run
        if "verbose" in options:
            options.verbose = False  # the metrics are printed below, in a table of their own
        last = self.run / "checkpoints" / "last.ckpt"
        if self.subcommand == "fit" and options.ckpt_path not in (None, "last", str(last)):
            raise InputError("fit continues its own run: --ckpt_path last. Weights of another: --model.init_from PATH")
        if options.ckpt_path == "last":
            options.ckpt_path = str(last)
        if options.ckpt_path is None and self.subcommand != "fit" and not options.model.init_args.init_from:
            raise InputError(f"{self.subcommand} needs weights: --ckpt_path last (or a file) or --model.init_from PATH")
        fill_in_needs(self.subcommand, options)
        if self.subcommand == "fit" and _get_rank() in (None, 0):
            claim_run_directory(self.run, options.experiment.overwrite, resume=options.ckpt_path is not None)
        if options.ckpt_path is not None:
            self.checkpoint_step = checkpoint_step(Path(options.ckpt_path))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with loggers of our choice; only ``fit`` writes into the run directory itself."""
        self.speed = SpeedMonitor()
        kwargs["logger"] = self._loggers()
        kwargs["default_root_dir"] = str(self.output)
        trainer = self.config_init[self.subcommand].trainer
        configured = trainer.callbacks or []
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
        """Every value of the configuration as plain types, links included."""
        text = self._parser(self.subcommand).dump(self.options, skip_link_targets=False, skip_none=False)
        resolved = yaml.safe_load(text)
        # How the command was called (again) is no part of what was run.
        for key in ("config", "ckpt_path", "weights_only", "verbose", "return_predictions"):
            resolved.pop(key, None)
        resolved["experiment"].pop("overwrite", None)
        return resolved

    def after_instantiate_classes(self) -> None:
        """Tell the model whether a checkpoint will replace its weights."""
        self.model.resumes = self.options.ckpt_path is not None

    # ---- fit -------------------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Write the resolved configuration; measure the untrained model where that is asked for."""
        if _get_rank() in (None, 0):
            if self.model.resumes:
                refuse_other_config(self.run / "config.yaml", self.resolved_config())
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
        """Keep the final weights, evaluate them once and write the record."""
        trainer = self.trainer
        if trainer.interrupted:
            return
        trainer.save_checkpoint(self.run / "checkpoints" / "last.ckpt", weights_only=False)
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
            if hasattr(logger, "finish"):
                logger.finish(self.run / "metrics.json", record.metrics)
        print_metrics(self._title(), self.model.evaluation, self.run / "metrics.json")

    # ---- validate, test --------------------------------------------------------------------------------------------

    def after_validate(self) -> None:
        """Write the metrics beside the run's own."""
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
        args: arguments without the program's name; those of the process by default.

    Raises:
        SystemExit: with code 2 and a message for input that a person has to mend.
    """
    set_up_logging()
    try:
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
    except (ValueError, RuntimeError, FloatingPointError, MisconfigurationException) as error:
        if (complaint := _input_error(error)) is None:
            raise
        sys.exit(complain(complaint))


def _input_error(error: BaseException | None) -> BaseException | None:
    """Find the error a person can mend: jsonargparse wraps whatever a constructor raises into one of its own."""
    while error is not None and not isinstance(error, InputError | FloatingPointError | MisconfigurationException):
        error = error.__cause__
    return error

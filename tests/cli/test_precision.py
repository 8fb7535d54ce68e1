"""Every kind of stage trains, evaluates and predicts in reduced precision; boxes and metrics stay in float32."""

from __future__ import annotations

import json

import pytest

from tests.command_line import REPOSITORY, read_metrics

ROWS = {"table1/c_fpn": "AR100", "table3/joint_fpn": "AP", "table6/dual": "segm_AR100", "table2/c_fpn": "AP"}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_every_stage_trains_and_evaluates(cli, arguments, run, tmp_path, precision):
    precise = ["--trainer.precision", precision, "--trainer.max_steps", "2"]
    for row, metric in ROWS.items():
        of_row = ["--config", str(REPOSITORY / "configs" / f"{row}.yaml"), *arguments[2:], *precise]
        if row.startswith("table2"):
            of_row += ["--data.proposals", str(run / "proposals")]
        if row.startswith("table6"):
            of_row += ["--data.max_val_images", "1"]  # most CPUs have no fast kernels for bfloat16
        cli("fit", *of_row)
        directory = tmp_path / "runs" / "mini" / row / "seed0"
        assert metric in read_metrics(directory / "metrics.json")
        saved = ["--config", str(directory / "config.yaml"), "--ckpt_path", "last"]
        if row.startswith("table1"):
            for split in ("train", "val"):
                cli("predict", *saved, "--data.predict_split", split)
        cli("validate", *saved)
        evaluated = read_metrics(directory / "validate" / "metrics.json")
        assert evaluated == json.loads((directory / "metrics.json").read_text())["metrics"]

"""Table 5 from the command line: four steps of training with shared features, then one checkpoint of both heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fpn_lightning.weights.combine import main as combine
from tests.command_line import REPOSITORY, weights

CONFIGS = REPOSITORY / "configs"
SHARED = ("backbone.", "pyramid.")


@pytest.mark.slow  # four runs and two stores of proposals
def test_four_steps_share_backbone_and_pyramid_to_the_bit(cli, arguments, tiny_data, tmp_path):
    def fit(row: str, proposes: bool = False) -> Path:
        cli("fit", "--config", str(CONFIGS / f"{row}.yaml"), *arguments[2:], "--trainer.max_steps", "2")
        run = tmp_path / "runs" / "mini" / row / "seed0"
        for split in ("train", "val") if proposes else ():
            cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", split)
        return run

    # Each row says itself whose proposals and whose weights it takes.
    first = fit("table1/c_fpn", proposes=True)
    second = fit("table2/c_fpn")
    third = fit("table5/steps/r50_shared_rpn", proposes=True)
    fourth = fit("table5/r50_shared")

    states = [weights(run) for run in (first, second, third, fourth)]
    shared = [name for name in states[1] if name.startswith(SHARED)]
    assert any(name.endswith("running_var") for name in shared)  # the preset's BatchNorm is live
    for state in states[2:]:
        assert all(torch.equal(state[name], states[1][name]) for name in shared)
    assert not any(torch.equal(states[0][name], states[1][name]) for name in shared if name.endswith("weight"))
    heads = [name for name in states[3] if name.startswith("roi_heads.")]
    assert not any(torch.equal(states[3][name], states[1][name]) for name in heads)
    record = json.loads((fourth / "metrics.json").read_text())
    assert record["experiment"] == {"table": "table5", "row": "r50_shared", "preset": "mini", "seed": 0}
    parents = [str(second / "checkpoints" / "last.ckpt"), str(third / "proposals" / "train")]
    assert [parent.split(" ")[0] for parent in record["parents"]] == parents

    both = tmp_path / "faster_rcnn.ckpt"
    assert combine([*(str(run / "checkpoints" / "last.ckpt") for run in (third, fourth)), str(both)]) == 0
    cli(
        *("predict", "--config", str(CONFIGS / "table3" / "joint_fpn.yaml"), *arguments[2:]),
        *("--model.detector.roi_heads.score_thresh", "0.0", "--data.predict_split", "val", "--ckpt_path", str(both)),
    )
    found = tmp_path / "runs" / "mini" / "table3" / "joint_fpn" / "seed0" / "predict" / "detections.json"
    images = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())["images"]
    assert {row["image_id"] for row in json.loads(found.read_text())} == {image["id"] for image in images}

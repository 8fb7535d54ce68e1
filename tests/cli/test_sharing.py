"""Table 5 from the command line: four steps to shared features, then both heads as one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fpn_lightning.weights.combine import main as combine
from tests.command_line import PRESET, REPOSITORY, weights

CONFIGS = REPOSITORY / "configs"
SHARED = ("backbone.", "pyramid.")


def files(row: str, stage: str) -> list[str]:
    """Options for a row at the scale of the mini preset."""
    configs = [CONFIGS / f"{row}.yaml", PRESET, PRESET.with_suffix("") / f"{stage}.yaml"]
    return [word for file in configs for word in ("--config", str(file))]


@pytest.mark.slow  # four runs and two stores of proposals
def test_four_steps_share_trunk_and_pyramid_to_the_bit(cli, arguments, tiny_data, tmp_path):
    common = [*arguments[4:], "--trainer.max_steps", "2"]

    def fit(row: str, stage: str, *options: str) -> Path:
        cli("fit", *files(row, stage), *common, *options)
        return tmp_path / "runs" / "mini" / row / "seed0"

    def proposals(run: Path) -> list[str]:
        for split in ("train", "val"):
            cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", split)
        return ["--data.proposals", str(run / "proposals")]

    first = fit("table1/c_fpn", "rpn")
    second = fit("table2/c_fpn", "fast_rcnn", *proposals(first))
    start = ["--model.init_from", str(second / "checkpoints" / "last.ckpt")]
    third = fit("table5/steps/r50_shared_rpn", "rpn", *start)
    fourth = fit("table5/r50_shared", "fast_rcnn", *start, *proposals(third))

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
    assert [parent.split(" ")[0] for parent in record["parents"]] == [start[1], str(third / "proposals" / "train")]

    both = tmp_path / "faster_rcnn.ckpt"
    assert combine([*(str(run / "checkpoints" / "last.ckpt") for run in (third, fourth)), str(both)]) == 0
    cli(
        *("predict", *files("faster_rcnn", "faster_rcnn"), *arguments[4:]),
        *("--model.detector.roi_heads.score_thresh", "0.0", "--data.predict_split", "val", "--ckpt_path", str(both)),
    )
    found = tmp_path / "runs" / "mini" / "table3" / "joint_fpn" / "seed0" / "predict" / "detections.json"
    images = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())["images"]
    assert {row["image_id"] for row in json.loads(found.read_text())} == {image["id"] for image in images}

"""Table 2 on real COCO images: an RPN, its proposals for both splits, and Fast R-CNN on these proposals."""

from __future__ import annotations

import json
import math

from tests.command_line import REPOSITORY, ROW, read_log

SMOKE = ("--preset", "smoke")
FAST_RCNN = REPOSITORY / "configs" / "table2" / "c_fpn.yaml"
SPLITS = {"train2017": 59, "val2017": 66}


def test_rpn_then_its_store_then_fast_rcnn(coco_mini, cli, tmp_path):
    folders = ("--data.root", str(coco_mini), "--experiment.root", str(tmp_path))
    options = ("--data.short_side", "128", "--data.max_side", "192", "--trainer.enable_progress_bar", "false")
    cli("fit", "--config", str(ROW), *SMOKE, *folders, *options)
    rpn = tmp_path / "smoke" / "table1" / "c_fpn" / "seed0"
    for split in SPLITS:
        cli("predict", "--config", str(rpn / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", split)
    headers = {split: json.loads((rpn / "proposals" / split / "header.json").read_text()) for split in SPLITS}
    assert {split: header["num_images"] for split, header in headers.items()} == SPLITS
    assert len({header["checkpoint_sha256"] for header in headers.values()}) == 1

    cli(
        "fit",
        *("--config", str(FAST_RCNN), *SMOKE, *folders, *options),
        *("--data.proposals", str(rpn / "proposals"), "--data.eval_proposals", "100"),
        # Two steps teach that most is background: without a threshold there is something to score.
        *("--model.init_args.detector.roi_heads.init_args.score_thresh", "0"),
    )
    run = tmp_path / "smoke" / "table2" / "c_fpn" / "seed0"
    steps = read_log(run, "train/loss_cls", "train/loss_box_reg")
    assert len(steps) == 2
    # Untrained, all 81 classes are equally likely: ln 81 = 4.4, less where an image has fewer than 512 regions.
    assert all(0 < float(step["train/loss_cls"]) < 5 for step in steps)
    assert all(math.isfinite(float(step["train/loss_box_reg"])) for step in steps)
    record = json.loads((run / "metrics.json").read_text())
    assert (record["status"], record["data"]["num_images"]) == ("finished", SPLITS["val2017"])
    assert {"AP", "AP50", "APs", "APm", "APl", "AR100"} <= record["metrics"].keys()
    assert all(0 <= value <= 1 for value in record["metrics"].values())

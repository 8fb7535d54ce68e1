"""Joint Faster R-CNN from the command line: AR and AP, and detections in a folder of images without the data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fpn_lightning.drawing import callback
from fpn_lightning.drawing.image import draw_image
from fpn_lightning.evaluation.__main__ import main as score
from tests.command_line import REPOSITORY, read_log, read_metrics

ROW = REPOSITORY / "configs" / "table3" / "joint_fpn.yaml"


@pytest.fixture
def faster_rcnn(arguments) -> list[str]:
    """Arguments of the row in the mini preset."""
    return ["--config", str(ROW), *arguments[2:]]


def test_a_run_logs_every_loss_and_its_checkpoint_predicts_without_the_data(cli, faster_rcnn, tiny_data, tmp_path):
    cli("fit", *faster_rcnn, "--trainer.max_steps", "2")
    run = tmp_path / "runs" / "mini" / "table3" / "joint_fpn" / "seed0"
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR1k", "AR1k_s"} <= record["metrics"].keys()
    losses = [f"train/{name}" for name in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg")]
    steps = read_log(run, *losses, "train/loss")
    assert len(steps) == 2
    for step in steps:
        assert sum(float(step[name]) for name in losses) == pytest.approx(float(step["train/loss"]), rel=1e-5)

    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    saved += ["--model.detector.roi_heads.score_thresh", "0.0"]
    cli("validate", *saved)
    cli("predict", *saved, "--data.predict_split", "val")
    results = run / "predict" / "detections.json"
    assert not (run / "proposals").exists()  # a detector gives detections
    annotations = tiny_data / "annotations" / "instances_val.json"
    out = tmp_path / "scores.json"
    thresholds = ["--area-thresholds", "85", "769"]
    assert score([str(annotations), str(results), "--metric", "bbox", "--output", str(out), *thresholds]) == 0
    scored, logged = json.loads(out.read_text()), read_metrics(run / "validate" / "metrics.json")
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert scored[name] == pytest.approx(logged[name], abs=1e-9), name

    # The categories come with the checkpoint: the data set may be gone.
    of_split = json.loads(results.read_text())
    gone = ["--data.root", str(tmp_path / "nowhere"), "--data.predict_path", str(tiny_data / "val")]
    cli("predict", *saved, *gone)
    of_folder = json.loads(results.read_text())
    categories = {(category["id"], category["name"]) for category in json.loads(annotations.read_text())["categories"]}
    assert {(row["category_id"], row["category"]) for row in of_folder} <= categories
    assert [row["bbox"] for row in of_folder] == [row["bbox"] for row in of_split]
    assert [row["category_id"] for row in of_folder] == [row["category_id"] for row in of_split]
    assert max(np.bincount([row["image_id"] for row in of_folder])) <= 100


def test_every_validation_prints_a_table_with_the_ap_of_each_class(
    cli, faster_rcnn, tiny_data, tmp_path, capsys, monkeypatch
):
    low_threshold = ["--model.detector.roi_heads.score_thresh", "0.0", "--data.val_split", "train"]
    rate = ["--model.optimization.lr", "0.006"]  # the preset's rate is too low to learn anything in two steps
    cli("fit", *faster_rcnn, *low_threshold, "--trainer.max_steps", "2", "--trainer.val_check_interval", "1", *rate)
    first, final = capsys.readouterr().out.split("table3/joint_fpn", 2)[1:]
    assert first.startswith(", step 1")
    run = tmp_path / "runs" / "mini" / "table3" / "joint_fpn" / "seed0"
    per_class = json.loads((run / "metrics.json").read_text())["per_class"]
    assert len(per_class) == 11
    assert max(per_class.values()) > 0
    for printed in (first, final):
        assert set(per_class) <= {line.split("│")[1].strip() for line in printed.splitlines() if "│" in line}

    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    cli("validate", *saved)
    assert json.loads((run / "validate" / "metrics.json").read_text())["per_class"] == per_class
    drawn = []
    monkeypatch.setattr(callback, "draw_image", lambda *given: drawn.append(given) or draw_image(*given))
    pictures = ["--pictures.of_splits", "true", "--pictures.score_thresh", "0.081"]
    cli("predict", *saved, "--data.predict_split", "train", *pictures)
    shown = {given[1].image_id: given[2] for given in drawn}
    detections = json.loads((run / "predict" / "detections.json").read_text())
    above = Counter(row["image_id"] for row in detections if row["score"] > 0.081)
    assert shown == {image_id: min(30, above[image_id]) for image_id in shown}
    assert 0 < sum(shown.values()) < len(detections)
    files = [str(tiny_data / "annotations" / "instances_train.json"), str(run / "predict" / "detections.json")]
    command = [*files, "--metric", "bbox", "--per-class", "--backend", "pycocotools", "--area-thresholds", "85", "769"]
    assert score([*command, "--output", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["per_class"] == pytest.approx(per_class, abs=1e-9)


def test_supercategories_from_training_to_scored_detections(cli, faster_rcnn, tiny_data, tmp_path, capsys):
    options = ["--data.labels", "supercategory", "--data.num_classes", "6", "--trainer.max_steps", "2"]
    cli("fit", *faster_rcnn, *options, "--model.detector.roi_heads.score_thresh", "0.0")
    run = tmp_path / "runs" / "mini" / "table3" / "joint_fpn" / "seed0"
    logged = read_metrics(run / "metrics.json")
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["categories"]
    assert kept["names"] == ["figure", "vehicle", "building", "plant", "animal", "sign"]

    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    cli("predict", *saved, "--data.predict_split", "val")
    results = run / "predict" / "detections.json"
    assert {row["category_id"] for row in json.loads(results.read_text())} <= set(kept["ids"])
    files = [str(tiny_data / "annotations" / "instances_val.json"), str(results)]
    out = tmp_path / "scores.json"
    command = [*files, "--metric", "bbox", "--area-thresholds", "85", "769", "--output", str(out)]
    assert score([*command, "--labels", "supercategory"]) == 0
    scored = json.loads(out.read_text())
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert scored[name] == pytest.approx(logged[name], abs=1e-9), name
    assert score(command) == 2  # ids of supercategories are no ids of categories
    assert "give --labels" in capsys.readouterr().err


def resolved(cli, capsys, row: Path, *options: str) -> dict:
    with pytest.raises(SystemExit):
        cli("fit", "--config", str(row), *options, "--print_config")
    return yaml.safe_load(capsys.readouterr().out)


def test_the_row_is_the_papers_model_and_schedule(cli, capsys):
    config = resolved(cli, capsys, ROW)
    model = config["model"]["init_args"]["detector"]
    assert (config["experiment"]["table"], config["experiment"]["row"]) == ("table3", "joint_fpn")
    assert f"# python train.py fit --config {ROW.relative_to(REPOSITORY)}" in ROW.read_text()
    milestones = config["model"]["init_args"]["optimization"]["milestones"]
    assert (config["trainer"]["max_steps"], milestones) == (80_000, [60_000])
    assert (model["rpn"]["init_args"]["post_nms_topk"], model["eval_proposals"]) == (2000, 1000)
    assert (model["channels"], model["fc_width"], model["roi_pooler"]["init_args"]["op"]) == (256, 1024, "pool")
    assert (model["roi_heads"]["init_args"]["batch_size_per_image"], model["anchors"]["convention"]) == (512, "exact")


def test_the_modern_preset_aligns_regions_as_for_fast_rcnn(cli, capsys):
    joint = resolved(cli, capsys, ROW, "--preset", "modern")
    stagewise = resolved(cli, capsys, REPOSITORY / "configs" / "table2" / "c_fpn.yaml", "--preset", "modern")
    poolers = [config["model"]["init_args"]["detector"]["roi_pooler"] for config in (joint, stagewise)]
    assert poolers[0] == poolers[1]
    assert poolers[0]["init_args"]["op"] == "align"
    assert joint["trainer"]["max_steps"] == 90_000


@pytest.mark.parametrize("name", ["torchvision_r50_fpn", "detectron2_r50_fpn"])
def test_configurations_of_the_zoo_parse_and_name_their_command(cli, capsys, name):
    file = REPOSITORY / "configs" / "zoo" / f"{name}.yaml"
    config = resolved(cli, capsys, file)
    assert f"# python train.py predict --config configs/zoo/{name}.yaml" in file.read_text()
    assert (config["experiment"]["table"], config["experiment"]["row"]) == ("zoo", name)
    model, data = config["model"]["init_args"]["detector"], config["data"]
    # Both test at 800 px with the best 1000 proposals, COCO's 80 categories, scores above 0.05.
    assert (data["short_side"], data["max_side"], data["num_classes"]) == (800, 1333, 80)
    assert data["size_rounding"] == ("floor" if name.startswith("torchvision") else "nearest")
    assert (model["rpn"]["init_args"]["pre_nms_topk"], model["eval_proposals"]) == (1000, 1000)
    heads = model["roi_heads"]["init_args"]
    assert (heads["score_thresh"], heads["nms_thresh"], heads["detections_per_image"]) == (0.05, 0.5, 100)

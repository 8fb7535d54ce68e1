"""The stage of Table 6: parameters, missing masks, shared images, and the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.__main__ import main as score
from fpn_lightning.geometry import Geometry
from fpn_lightning.models.backbones.narrow import NarrowResNet
from fpn_lightning.models.detector import Detector, Scale
from fpn_lightning.models.masks.proposer import MaskProposer
from fpn_lightning.stages.mask_proposals import MaskProposalStage, reject_shared_images
from fpn_lightning.structures import Batch
from tests.command_line import REPOSITORY, read_metrics
from tests.models.builders import annotated, box_masks, image_batch, targets

ROW = REPOSITORY / "configs" / "table6" / "dual_28_2x.yaml"


def stage(**options):
    torch.manual_seed(0)
    scale = Scale(base_anchor_size=8)
    detector = Detector(NarrowResNet(), rpn=None, roi_heads=None, masks=MaskProposer, channels=8, scale=scale)
    return MaskProposalStage(detector, **options)


def batch(with_masks=True):
    truth = [targets([[10, 10, 40, 50], [20, 2, 28, 9]]), targets([])]
    if with_masks:
        truth[0].masks = box_masks(truth[0].boxes, 64, 64)
    return Batch(image_batch([(64, 64), (64, 64)]), truth, [annotated(target, n) for n, target in enumerate(truth)])


def test_every_parameter_is_trained():
    model = stage()
    losses = model.losses(batch())
    assert set(losses) == {"loss_mask", "loss_mask_score"}
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_proposals_cover_the_image_file_and_the_recall_counts_them():
    model = stage().eval()
    data = batch()
    data.images.geometries = [Geometry((128, 128), (64, 64)), Geometry((96, 96), (64, 64))]
    with torch.no_grad():
        first, second = model.predict_step(data, 0)
    assert len(first) == len(second) == 1000
    assert {tuple(mask["size"]) for mask in first.masks} == {(128, 128)}
    assert {tuple(mask["size"]) for mask in second.masks} == {(96, 96)}
    assert set(first.levels.tolist()) <= {2, 3, 4, 5, 6}
    # The metric gets these masks: an object with the mask of a proposal counts as matched.
    data.ground_truths[0] = replace(data.ground_truths[0], masks=[first.masks[3], first.masks[500]])
    with torch.no_grad():
        model.evaluate_batch(data)
    values, num_images = model.evaluation_result()
    assert (values["segm_AR1k"], int(num_images)) == (1, 2)


def test_masks_that_were_not_loaded_are_requested():
    for call in ("losses", "evaluate_batch"):
        with pytest.raises(InputError, match=r"data\.load_masks"):
            getattr(stage(), call)(batch(with_masks=False))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(InputError, match=r"model\.mask_threshold"):
        stage(mask_threshold=threshold)


def test_training_on_evaluated_images_is_rejected():
    with pytest.raises(InputError, match=r"train2017 contains images of .* val2014\. Train on train2014"):
        reject_shared_images("train2017", "val2014", None)
    for split in ("trainval35k", "valminusminival2014", "val2014"):
        with pytest.raises(InputError, match=f"{split} contains images of the evaluated split minival2014"):
            reject_shared_images(split, "minival2014")
    with pytest.raises(InputError, match="val2014"):
        reject_shared_images("train2017", "val2017", "val2014")
    reject_shared_images("train2014", "val2014", None)
    reject_shared_images("train2017", "val2017", "test-dev2017")
    reject_shared_images("train", "val")


@pytest.fixture
def renamed(tiny_data, tmp_path):
    """The tiny data set under the names of COCO's splits."""
    root = tmp_path / "renamed"
    shutil.copytree(tiny_data, root)
    for split, names in (("train", ("train2017", "train2014")), ("val", ("val2017", "val2014"))):
        for name in names:
            shutil.copytree(root / split, root / name)
            shutil.copy(
                root / "annotations" / f"instances_{split}.json", root / "annotations" / f"instances_{name}.json"
            )
    return root


def test_a_model_trained_on_train2017_is_never_evaluated_on_val2014(cli, row_arguments, renamed, tmp_path, capsys):
    common = [
        *row_arguments,
        "--data.root",
        str(renamed),
        "--trainer.max_steps",
        "1",
        "--data.train_split",
        "train2017",
    ]
    with pytest.raises(SystemExit) as stop:
        cli("fit", *common, "--data.val_split", "val2014")
    assert stop.value.code == 2
    assert "train2017 contains images of the evaluated split val2014" in capsys.readouterr().err
    cli("fit", *common, "--data.val_split", "val2017")
    run = tmp_path / "runs" / "mini" / "table6" / "dual_28_2x" / "seed0"
    with pytest.raises(SystemExit):
        cli("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.val_split", "val2014")
    assert "data.train_split train2017 contains images of the evaluated split val2014" in capsys.readouterr().err
    start = ["--model.init_from", str(run / "checkpoints" / "last.ckpt"), "--experiment.root", str(tmp_path / "again")]
    with pytest.raises(SystemExit):
        cli("fit", *common, "--data.train_split", "train2014", "--data.val_split", "val2014", *start)
    assert "data.train_split train2017 contains images of the evaluated split val2014" in capsys.readouterr().err


def test_threshold_and_interpolation_decide_what_belongs_to_a_mask():
    data, found = batch(), {}
    for threshold, interpolation in ((0.2, "bilinear"), (0.5, "bilinear"), (0.5, "nearest")):
        model = stage(mask_threshold=threshold, mask_interpolation=interpolation).eval()
        with torch.no_grad():
            for mlp in model.detector.masks.mlps:  # logits on both sides of either threshold
                mlp.mask_logits.weight *= 1000
            found[threshold, interpolation] = model.predict_step(data, 0)[0].masks
    areas = {key: np.array([mask_api.area(mask) for mask in masks]) for key, masks in found.items()}
    assert (areas[0.2, "bilinear"] >= areas[0.5, "bilinear"]).all()
    assert areas[0.2, "bilinear"].sum() > areas[0.5, "bilinear"].sum() > 0
    assert found[0.5, "bilinear"] != found[0.5, "nearest"]


def test_other_cells_are_drawn_at_every_step_and_with_every_seed(monkeypatch):
    data = batch()
    values = []
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        monkeypatch.setattr(MaskProposalStage, "global_step", step)
        values.append(stage(seed=seed).losses(data)["loss_mask_score"].item())
    assert values[0] == values[3]
    assert len(set(values)) == 3


@pytest.fixture
def row_arguments(arguments) -> list[str]:
    """``arguments`` with the row of this table."""
    return ["--config", str(ROW), *arguments[2:], "--data.max_val_images", "null"]


def test_masks_are_asked_for_before_the_first_step(cli, row_arguments, capsys):
    with pytest.raises(SystemExit):
        cli("fit", *row_arguments, "--data.load_masks", "false")
    assert "set data.load_masks to true" in capsys.readouterr().err


def test_fit_predict_and_scoring_agree(cli, row_arguments, tiny_data, tmp_path):
    called = cli("fit", *row_arguments, "--trainer.max_steps", "2", "--model.recall_limits", "[10, 50]")
    run = tmp_path / "runs" / "mini" / "table6" / "dual_28_2x" / "seed0"
    record = json.loads((run / "metrics.json").read_text())
    assert record["train"]["steps"] == 4  # twice the preset's schedule
    metrics = read_metrics(run / "metrics.json")
    assert set(metrics) == {f"segm_AR{n}{s}" for n in (10, 50) for s in ("", "_s", "_m", "_l")}
    assert called.model.detector.masks.mask_size == 28

    more = ["--data.predict_split", "val", "--detections.top_k", "50"]
    cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", *more)
    results = run / "predict" / "detections.json"
    lines = json.loads(results.read_text())
    assert len(lines) == 5 * 50
    keys = {"image_id", "file_name", "segmentation", "score", "category_id", "category", "level"}
    assert set(lines[0]) == keys
    # A folder: all proposals and a picture of each image.
    cli(
        "predict",
        "--config",
        str(run / "config.yaml"),
        "--ckpt_path",
        "last",
        "--data.predict_path",
        str(tiny_data / "val"),
    )
    of_folder = json.loads(results.read_text())
    assert len(of_folder) == 5 * 1000
    assert [line["segmentation"] for line in of_folder[:50]] == [line["segmentation"] for line in lines[:50]]
    assert len(list((run / "predict" / "pictures").glob("*.png"))) == 5
    results.write_text(json.dumps(lines))

    annotations = tiny_data / "annotations" / "instances_val.json"
    output = tmp_path / "scored.json"
    options = ["--metric", "segm", "--class-agnostic", "--limits", "10", "50", "--area-thresholds", "85", "769"]
    assert score([str(annotations), str(results), *options, "--output", str(output)]) == 0
    scored = json.loads(output.read_text())
    assert scored.keys() == metrics.keys()
    for name, value in scored.items():
        assert value == (None if metrics[name] is None else pytest.approx(metrics[name], abs=1e-9)), name


def test_a_run_without_masks_ends_in_one_message(cli, row_arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli("fit", *row_arguments, "--data.load_masks", "false")
    assert stop.value.code == 2
    assert "set data.load_masks to true" in capsys.readouterr().err

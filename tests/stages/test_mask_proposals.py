"""The stage of Table 6: parameters, masks that are missing, the leak, the longer schedule, the whole command line."""

from __future__ import annotations

import json

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.evaluation.__main__ import main as score
from fpn_lightning.models.narrow_resnet import NarrowResNet
from fpn_lightning.stages.mask_proposals import MaskProposalStage, refuse_leak
from fpn_lightning.stages.optimization import Optimization
from fpn_lightning.structures import Batch
from tests.models.builders import image_batch, targets
from tests.runs import REPOSITORY, read_metrics

ROW = REPOSITORY / "configs" / "table6" / "dual_28_2x.yaml"


def stage(**options):
    torch.manual_seed(0)
    return MaskProposalStage(NarrowResNet(), pyramid_channels=8, base_anchor_size=8, **options)


def batch(with_masks=True):
    truth = [targets([[10, 10, 40, 50], [20, 2, 28, 9]]), targets([])]
    if with_masks:
        truth[0].segmentations = [[[x, y, a, y, a, b, x, b]] for x, y, a, b in truth[0].boxes.tolist()]
    return Batch(image_batch([(64, 64), (64, 64)]), truth)


def test_every_parameter_is_trained():
    model = stage()
    losses = model.losses(batch())
    assert set(losses) == {"loss_mask", "loss_mask_score"}
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_proposals_cover_the_image_file_and_the_recall_counts_them():
    model = stage().eval()
    data = batch()
    data.images.sizes_orig = torch.tensor([[128, 128], [96, 96]])
    with torch.no_grad():
        first, second = model.predict_step(data, 0)
    assert len(first) == len(second) == 1000
    assert {tuple(mask["size"]) for mask in first.masks} == {(128, 128)}
    assert {tuple(mask["size"]) for mask in second.masks} == {(96, 96)}
    assert set(first.levels.tolist()) <= {2, 3, 4, 5, 6}
    # What the metric is given are these masks: an object that is one of them is found.
    truth = data.targets[0]
    truth.segmentations = [dict(first.masks[3]), dict(first.masks[500])]
    with torch.no_grad():
        model.evaluate_batch(data)
    values, num_images = model.evaluation_result()
    assert (values["segm_AR1k"], int(num_images)) == (1, 2)
    model.reset_evaluation()
    assert int(model.recall.num_images) == 0


def test_masks_that_were_not_loaded_are_asked_for():
    for call in ("losses", "evaluate_batch"):
        with pytest.raises(InputError, match=r"data\.load_masks"):
            getattr(stage(), call)(batch(with_masks=False))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(InputError, match=r"model\.mask_threshold"):
        stage(mask_threshold=threshold)


def test_training_on_evaluated_images_is_refused():
    with pytest.raises(InputError, match="train2017, but most images of val2014"):
        refuse_leak("train2017", "val2014", None)
    with pytest.raises(InputError, match="val2014"):
        refuse_leak("train2017", "val2017", "val2014")
    refuse_leak("train2014", "val2014", None)
    refuse_leak("train2017", "val2017", "test-dev2017")
    refuse_leak("train", "val")


def test_a_longer_schedule_keeps_the_rest():
    paper = Optimization(lr=0.03, milestones=[60_000], schedule_factor=2)
    same_batch = paper.rescaled(16)
    assert (same_batch.milestones, same_batch.lr, same_batch.warmup_steps) == ([120_000], 0.03, 500)
    half_batch = paper.rescaled(8)
    assert (half_batch.milestones, half_batch.lr, half_batch.warmup_steps) == ([240_000], 0.015, 1000)
    assert half_batch.rescaled(16).milestones == [120_000]  # applied once


@pytest.fixture
def row_arguments(arguments) -> list[str]:
    """Row, preset and what makes a run take seconds; the row of ``arguments`` replaced by this table's."""
    return ["--config", str(ROW), *arguments[2:], "--data.max_val_images", "null"]


def test_fit_predict_and_scoring_agree(cli, row_arguments, tiny_data, tmp_path):
    called = cli("fit", *row_arguments, "--trainer.max_steps", "2", "--model.recall_limits", "[10, 50]")
    run = tmp_path / "runs" / "mini" / "table6" / "dual_28_2x" / "seed0"
    record = json.loads((run / "metrics.json").read_text())
    assert record["train"]["steps"] == 4  # twice the schedule, whatever the preset says
    metrics = read_metrics(run / "metrics.json")
    assert set(metrics) == {f"segm_AR{n}{s}" for n in (10, 50) for s in ("", "_s", "_m", "_l")}
    assert called.model.masks.mask_size == 28

    more = ["--data.predict_split", "val", "--detections.top_k", "50"]
    cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", *more)
    results = run / "predict" / "detections.json"
    lines = json.loads(results.read_text())
    assert len(lines) == 5 * 50
    assert set(lines[0]) == {"image_id", "file_name", "segmentation", "score", "category_id", "level"}
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

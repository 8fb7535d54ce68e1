"""The presets for COCO hold the paper's numbers."""

from __future__ import annotations

import pytest
import yaml

from fpn_lightning.data.samplers import accumulation_steps
from tests.command_line import ROW


def resolved(cli, capsys, preset: str, *more: str) -> dict:
    with pytest.raises(SystemExit):
        cli("fit", "--config", str(ROW), "--preset", preset, *more, "--print_config")
    return yaml.safe_load(capsys.readouterr().out)


def test_8gpu_is_the_paper(cli, capsys):
    config = resolved(cli, capsys, "8gpu")
    arguments, data = config["model"]["init_args"], config["data"]
    optimization, model = arguments["optimization"], arguments["detector"]
    rpn, anchors = model["rpn"]["init_args"], model["anchors"]
    # FPN §5.1: 8 GPUs × 2 images, SGD, 0.02 for 30k and 0.002 for 10k, weight decay 1e-4, momentum 0.9, 800 px
    assert config["trainer"]["devices"] * data["batch_size_per_device"] == data["total_batch_size"] == 16
    assert accumulation_steps(16, data["batch_size_per_device"], config["trainer"]["devices"]) == 1
    assert (optimization["optimizer"], optimization["lr"], optimization["momentum"]) == ("sgd", 0.02, 0.9)
    assert (optimization["schedule"], optimization["milestones"], optimization["decay"]) == ("multistep", [30_000], 0.1)
    assert (config["trainer"]["max_steps"], optimization["weight_decay"]) == (40_000, 1e-4)
    assert optimization["reference_batch_size"] == 16
    assert (data["short_side"], data["train_split"], data["val_split"]) == (800, "train2017", "val2017")
    # FPN §3, §4.1: d = 256, areas 32² to 512² on P2 to P6, three ratios, one head, IoU 0.7 and 0.3, 256 anchors
    assert model["channels"] == 256
    sizes = [[model["scale"]["base_anchor_size"] * 2**i for i in octaves] for octaves in anchors["octaves"]]
    assert sizes == [[32], [64], [128], [256], [512]]
    assert anchors["ratios"] == [0.5, 1.0, 2.0]
    assert (rpn["shared_head"], rpn["positive_iou"], rpn["negative_iou"]) == (True, 0.7, 0.3)
    assert (rpn["batch_size_per_image"], rpn["nms_thresh"]) == (256, 0.7)
    assert model["pyramid"]["class_path"].endswith("FPN")
    assert model["backbone"]["init_args"]["name"] == "resnet50"
    assert model["backbone"]["init_args"]["norm"] == "frozen"
    # the paper evaluates at 100 and 1000 proposals, COCO's areas
    assert {100, 1000} <= set(arguments["recall_limits"])
    assert model["scale"]["area_thresholds"] == [32**2, 96**2]
    # from the references, where the paper is silent
    assert (data["max_side"], data["flip_probability"]) == (1333, 0.5)
    assert (optimization["warmup_steps"], optimization["warmup_factor"]) == (500, pytest.approx(1 / 3))
    assert model["backbone"]["init_args"]["frozen_stages"] == 2


def test_1gpu_differs_in_the_machine_only(cli, capsys):
    eight, one = resolved(cli, capsys, "8gpu"), resolved(cli, capsys, "1gpu")
    assert one["model"] == eight["model"]
    assert one["trainer"]["max_steps"] == eight["trainer"]["max_steps"]
    assert one["data"]["total_batch_size"] == 16
    assert accumulation_steps(16, one["data"]["batch_size_per_device"], 1) == 4


def test_modern_trains_longer_with_jitter(cli, capsys):
    modern = resolved(cli, capsys, "modern")
    assert modern["trainer"]["max_steps"] == 90_000
    assert modern["model"]["init_args"]["optimization"]["milestones"] == [60_000, 80_000]
    assert modern["data"]["short_side"][0] == 640
    assert modern["data"]["short_side"][-1] == 800  # evaluation uses the last


@pytest.mark.parametrize(("preset", "more"), [("small", ()), ("small_gpu", ("--data.train_split", "train2017"))])
def test_small_presets_keep_the_proportions_of_the_paper(cli, capsys, preset, more):
    config = resolved(cli, capsys, preset, *more)
    model, data = config["model"]["init_args"]["detector"], config["data"]
    scale, ratio = model["scale"], data["short_side"] / 800
    assert scale["base_anchor_size"] / 32 == scale["canonical_size"] / 224 == pytest.approx(ratio, rel=0.07)
    assert data["max_side"] / data["short_side"] == pytest.approx(1333 / 800, rel=0.11)
    assert scale["area_thresholds"] == [32**2, 96**2]  # of the image file, which is COCO's
    assert (data["labels"], data["num_classes"]) == ("supercategory", 12)
    assert (data["train_split"], data["val_split"]) == (more[1] if more else "small_train", "small_val")
    gpu = preset == "small_gpu"
    assert model["backbone"]["class_path"].endswith("ResNetBackbone" if gpu else "EfficientNetLiteBackbone")
    assert accumulation_steps(data["total_batch_size"], data["batch_size_per_device"], 1) == (2 if gpu else 1)

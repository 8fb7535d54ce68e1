"""Row (c) trains a step with every backbone by one override."""

from __future__ import annotations

import pytest

from tests.command_line import ROW, read_metrics

MODELS = "fpn_lightning.models"
SCRATCH = ("weights", "null"), ("norm", "batch"), ("frozen_stages", "0")
BACKBONES = {
    "resnet18": ("backbones.ResNetBackbone", (("name", "resnet18"), *SCRATCH)),
    "resnet101": ("backbones.ResNetBackbone", (("name", "resnet101"), *SCRATCH)),
    "resnext101": ("backbones.ResNetBackbone", (("name", "resnext101_32x8d"), *SCRATCH)),
    "vgg16": ("backbones.VGGBackbone", (("weights", "null"), ("frozen_stages", "0"))),
    "mobilenet_v2": ("backbones.MobileNetV2Backbone", SCRATCH),
    **{
        f"efficientnet_b{size}": (
            "backbones.EfficientNetBackbone",
            (("name", f"efficientnet_b{size}"), *SCRATCH),
        )
        for size in range(5)
    },
    "convnext_tiny": ("backbones.ConvNeXtBackbone", (("weights", "null"), ("frozen_stages", "0"))),
    "timm": ("backbones.TimmBackbone", (("model_name", "resnet18"), ("norm", "batch"))),
}
HEAVY = {"resnet101", "resnext101", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"}


@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in BACKBONES]
)
def test_one_step_of_training(cli, tiny_data, tmp_path, backbone):
    if backbone == "timm":
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
    class_path, options = BACKBONES[backbone]
    override = ["--model.detector.backbone", f"{MODELS}.{class_path}"]
    for name, value in options:
        override += [f"--model.detector.backbone.{name}", value]
    result = cli(
        *("fit", "--config", str(ROW), *override),
        *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_steps", "1"),
        *("--trainer.enable_progress_bar", "false", "--experiment.root", str(tmp_path)),
        *("--data.root", str(tiny_data), "--data.num_classes", "11", "--data.train_split", "train"),
        *("--data.val_split", "val", "--data.short_side", "64", "--data.max_side", "64", "--data.num_workers", "0"),
        *("--data.total_batch_size", "2", "--data.batch_size_per_device", "2", "--data.max_val_images", "1"),
        *("--model.optimization.reference_batch_size", "2"),
    )
    assert result.trainer.global_step == 1
    assert set(result.model.detector.pyramid.strides.values()) == {4, 8, 16, 32, 64}
    assert 0 <= read_metrics(tmp_path / "paper" / "table1" / "c_fpn" / "seed0" / "metrics.json")["AR1k"] <= 1

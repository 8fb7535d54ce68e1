"""Table 1(c) on real COCO images: a run from its config, and a model that overfits a few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import ROW, read_metrics, run_python

SMOKE = ("--preset", "smoke")


def test_two_steps_and_a_validation(coco_mini, cli, tmp_path):
    result = cli(
        "fit",
        *("--config", str(ROW), *SMOKE),
        *("--data.root", str(coco_mini), "--experiment.root", str(tmp_path)),
    )
    run = tmp_path / "smoke" / "table1" / "c_fpn" / "seed0"
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert record["train"]["steps"] == 2
    assert record["data"]["num_images"] == 66
    assert record["area_thresholds"] == [32**2, 96**2]
    assert all(0 <= value <= 1 for value in record["metrics"].values())
    assert result.datamodule.num_classes == 80


def large_object_subset(source: Path, root: Path, count: int) -> None:
    """Write a data set whose training and validation split are the same few images, without small objects."""
    annotations = json.loads((source / "annotations" / "instances_val2017.json").read_text())
    objects: dict[int, list[dict]] = {}
    for annotation in annotations["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    chosen = [
        image
        for image in annotations["images"]
        if objects.get(image["id"]) and all(o["area"] >= 32**2 and not o["iscrowd"] for o in objects[image["id"]])
    ][:count]
    assert len(chosen) == count
    annotations["images"] = chosen
    annotations["annotations"] = [o for image in chosen for o in objects[image["id"]]]
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(annotations))
        (root / split).symlink_to(source / "val2017")


@pytest.mark.slow
def test_four_images_can_be_overfitted(coco_mini, tmp_path):
    large_object_subset(coco_mini, tmp_path / "coco", 4)
    done = run_python(
        "fit",
        *("--config", str(ROW), *SMOKE),
        *("--data.root", str(tmp_path / "coco"), "--experiment.root", str(tmp_path / "runs")),
        *("--data.flip_probability", "0", "--trainer.max_steps", "250", "--trainer.log_every_n_steps", "20"),
        *("--trainer.enable_progress_bar", "false"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = read_metrics(tmp_path / "runs" / "smoke" / "table1" / "c_fpn" / "seed0" / "metrics.json")
    assert metrics["AR1k_s"] is None
    assert metrics["AR100"] >= 0.8

"""Table 6 on real COCO images: two steps of a row, and targets from the polygons and crowds of the annotation file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as mask_api

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.models.masks.targets import mask_targets
from tests.command_line import REPOSITORY

SMOKE = ("--preset", "smoke")
ROW = REPOSITORY / "configs" / "table6" / "dual.yaml"
SPLITS = ("--data.train_split", "train2017", "--data.val_split", "val2017")


def test_two_steps_and_a_validation(coco_mini, cli, tmp_path):
    options = ("--data.short_side", "128", "--data.max_side", "192", "--trainer.enable_progress_bar", "false")
    folders = ("--data.root", str(coco_mini), "--experiment.root", str(tmp_path))
    cli("fit", "--config", str(ROW), *SMOKE, *folders, *options, *SPLITS, "--data.max_val_images", "12")
    record = json.loads((tmp_path / "smoke" / "table6" / "dual" / "seed0" / "metrics.json").read_text())
    assert (record["status"], record["data"]["num_images"]) == ("finished", 12)
    assert {"segm_AR1k", "segm_AR1k_s", "segm_AR1k_m", "segm_AR1k_l"} <= record["metrics"].keys()
    assert all(0 <= value <= 1 for value in record["metrics"].values())


def test_targets_hold_the_area_of_every_object(coco_mini):
    # Over a window that contains the whole image, the covered fractions of all cells add up to the mask's area.
    data = COCODataModule(str(coco_mini), short_side=200, max_side=333, num_workers=0, load_masks=True)
    data.setup("fit")
    seen = 0
    for batch in data.val_dataloader():
        (target,), images = batch.targets, batch.images
        if not target.masks:
            continue
        (geometry,) = images.geometries
        size, size_orig = geometry.size, geometry.size_orig
        side = float(max(size))
        window = np.array([[0.0, 0, side, side]] * len(target.masks))
        objects = np.arange(len(window))
        for flipped in (False, True):
            coverage = mask_targets(target.masks, objects, window, replace(geometry, flipped=flipped), 14)
            pixel = (size_orig[0] / size[0]) * (size_orig[1] / size[1])  # px² of the file in one of the input
            for mask, rle in zip(coverage, target.masks, strict=True):
                area = float(mask_api.area(rle))
                assert mask.sum() * (side / 14) ** 2 * pixel == pytest.approx(area, rel=1e-5, abs=1e-3)
                seen += 1
    assert seen > 800

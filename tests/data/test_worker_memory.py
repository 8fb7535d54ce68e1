"""Workers share the annotations: their memory does not grow while they read them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fpn_lightning.data.datamodule import COCODataModule

IMAGES, OBJECTS = 2500, 20


def proportional_memory_kib(pid: int) -> int:
    """Memory of a process in which a page shared by n processes counts 1/n."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss line")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not report shared memory")
def test_worker_memory_is_flat_over_an_epoch(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    cv2.imwrite(str(tmp_path / "val2017" / "same.jpg"), np.full((32, 32, 3), 128, np.uint8))
    outline = [[float(x) for x in range(40)]]
    content = {
        "images": [{"id": i, "file_name": "same.jpg", "height": 32, "width": 32} for i in range(1, IMAGES + 1)],
        "annotations": [
            {
                "id": i * OBJECTS + k + 1,
                "image_id": i + 1,
                "category_id": 1,
                "bbox": [1.0, 1.0, 20.0, 20.0],
                "area": 300.0,
                "iscrowd": 0,
                "segmentation": outline,
            }
            for i in range(IMAGES)
            for k in range(OBJECTS)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    del content
    data = COCODataModule(str(tmp_path), num_classes=1, short_side=32, max_side=32, num_workers=2, load_masks=True)
    batches = iter(data.val_dataloader())
    pids = [worker.pid for worker in batches._workers]
    early: list[int] = []
    for seen, _ in enumerate(batches):
        if seen == IMAGES // 20:
            early = [proportional_memory_kib(pid) for pid in pids]
        if seen == IMAGES - 20:  # the workers end with the last batch
            late = [proportional_memory_kib(pid) for pid in pids]
    assert seen == IMAGES - 1
    for before, after in zip(early, late, strict=True):
        assert after <= 1.05 * before, (early, late)

"""A folder to check commands in: a checkout without runs, with a few records and a small result file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pycocotools import mask as masks

from tests.command_line import REPOSITORY
from tests.workflow.conftest import checkout, rows

__all__ = ["checkout", "folder", "rows"]


@pytest.fixture
def folder(checkout: Path, tiny_data: Path) -> Path:
    """The working directory."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "benchmarks"):
        (checkout / name).symlink_to(REPOSITORY / name)
    for row in ("a_conv4", "c_fpn"):
        record = Path("reports/records/mini/table1", row, "seed0.json")
        (checkout / record).parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / record, checkout / record)
    annotations = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    results = []
    for item in annotations["annotations"]:
        segmentation = item["segmentation"]
        if isinstance(segmentation, list):
            mask = masks.merge(masks.frPyObjects(segmentation, *sizes[item["image_id"]]))
            segmentation = {"size": mask["size"], "counts": mask["counts"].decode()}
        if not item["iscrowd"]:
            results.append({**item, "score": 0.5, "segmentation": segmentation})
    (checkout / "ANNOTATIONS.json").write_text(json.dumps(annotations))
    (checkout / "RESULTS.json").write_text(json.dumps(results))
    return checkout

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep indexes of read-only folders out of the home folder."""
    monkeypatch.setenv("FPN_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Two images, three objects, and results that find two of them."""
    annotations = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 80} for i in (5, 9)],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 4, "bbox": [40, 0, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 7, "image_id": 9, "category_id": 3, "bbox": [0, 50, 10, 10], "area": 100},
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 4, "name": "cat"}],
    }
    for item in annotations["annotations"]:
        x, y, w, h = item["bbox"]
        item["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    results = [
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 5, "category_id": 4, "bbox": [40.0, 0, 40, 20], "score": 0.5},
    ]
    paths = tmp_path / "annotations.json", tmp_path / "results.json"
    for path, content in zip(paths, (annotations, results), strict=True):
        path.write_text(json.dumps(content))
    return paths

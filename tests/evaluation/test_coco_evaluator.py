from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_api

from fpn_lightning.evaluation.coco_evaluator import average_precision, class_agnostic_recall

from .reference import assert_same_cells, coco_dataset, coco_results, pycocotools_recall, random_scene


def _random_masks(rng: np.random.Generator) -> tuple[dict, list]:
    """Blocks of pixels on small images, some empty, some crowds, several classes."""

    def rle() -> dict:
        pixels = np.zeros((30, 40), np.uint8, order="F")
        y, x, height, width = rng.integers(0, 20, 4)
        pixels[y : y + height, x : x + width] = 1
        if rng.random() < 0.5:
            pixels[::4] = 0
        coded = mask_api.encode(pixels)
        return {"size": [30, 40], "counts": coded["counts"].decode()}

    images = [{"id": i, "height": 30, "width": 40} for i in range(1, 9)]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(0, 5)):
            mask = rle()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.integers(1, 4)),
                    "segmentation": mask,
                    "bbox": mask_api.toBbox(mask).tolist(),
                    "area": float(mask_api.area(mask)),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
            if rng.random() < 0.7:
                score, category = float(rng.integers(0, 4)), int(rng.integers(1, 4))
                results.append({"image_id": image["id"], "category_id": category, "segmentation": mask, "score": score})
        for _ in range(rng.integers(0, 8)):
            score, category = float(rng.integers(0, 4)), int(rng.integers(1, 4))
            results.append({"image_id": image["id"], "category_id": category, "segmentation": rle(), "score": score})
    categories = [{"id": i, "name": str(i)} for i in range(1, 5)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(8))
def test_backends_give_the_same_cells(seed, iou_type):
    rng = np.random.default_rng(seed)
    if iou_type == "segm":
        annotations, results = _random_masks(rng)
        thresholds = (40.0, 150.0)
    else:
        scenes = [random_scene(rng) for _ in range(10)]
        annotations, results = coco_dataset(scenes), coco_results(scenes)
        thresholds = (32.0**2, 96.0**2)
        for result in results:
            result["category_id"] = int(rng.integers(1, 6))
    cells = {}
    for backend in ("faster-coco-eval", "pycocotools"):
        arguments = (annotations, results, iou_type, (2, 5, 1000), thresholds, backend)
        cells[backend] = (*average_precision(*arguments), class_agnostic_recall(*arguments))
    for fast, reference in zip(*cells.values(), strict=True):
        assert_same_cells(fast, reference)
        assert any(value for value in reference.values())


def test_mask_recall_equals_pycocotools_by_limit():
    annotations, results = _random_masks(np.random.default_rng(3))
    values = class_agnostic_recall(annotations, results, "segm", (1, 3, 1000), (40, 150))
    expected = pycocotools_recall(annotations, results, (1, 3, 1000), (40, 150), "segm")
    np.testing.assert_allclose(list(values.values()), expected.T.ravel(), rtol=0, atol=1e-9)
    assert list(values)[-4:] == ["segm_AR1k", "segm_AR1k_s", "segm_AR1k_m", "segm_AR1k_l"]


def test_limits_do_not_move_ap():
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(8)]
    annotations, results = coco_dataset(scenes), coco_results(scenes)
    usual, _ = average_precision(annotations, results)
    other, _ = average_precision(annotations, results, limits=(3, 1000))
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert {name: usual[name] for name in names} == {name: other[name] for name in names}
    assert "AR3" in other
    assert "AR100" not in other


def test_records_are_left_as_they_were():
    annotations, results = _random_masks(np.random.default_rng(1))
    before = repr(annotations), repr(results)
    average_precision(annotations, results, "segm", backend="pycocotools")
    assert (repr(annotations), repr(results)) == before

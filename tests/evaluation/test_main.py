from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fpn_lightning.evaluation.__main__ import main
from fpn_lightning.evaluation.results import read_proposals

from .reference import coco_dataset, coco_results, pycocotools_recall, random_scene

GOLDEN = {
    ("bbox", "AP AP50 AP75 APs APm APl AR1 AR10 AR100 AR100_s AR100_m AR100_l"): (
        "0.504581 0.696973 0.572982 0.585626 0.519400 0.501398 0.386813 0.593680 0.595353 0.639811 0.566421 0.564291"
    ),
    ("segm", "AP AP50 AP75 APs APm APl segm_AR1 segm_AR10 segm_AR100 segm_AR100_s segm_AR100_m segm_AR100_l"): (
        "0.319545 0.562288 0.298927 0.387374 0.310183 0.326934 0.268230 0.415449 0.416839 0.469450 0.376759 0.381472"
    ),
}


def _score(*args: object) -> dict[str, float | None]:
    output = Path(str(args[1])).with_name("scored.json")
    assert main([str(argument) for argument in (*args, "--output", output)]) == 0
    return json.loads(output.read_text())


@pytest.fixture
def golden(coco_golden: Path, tmp_path: Path) -> dict[str, Path]:
    files = {"annotations": coco_golden / "instances_val2014_100.json"}
    for kind in ("bbox", "segm"):
        files[kind] = tmp_path / f"{kind}.json"
        files[kind].symlink_to(coco_golden / f"instances_val2014_fake{kind}100_results.json")
    return files


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Two images, three objects, and results that find two of them."""
    annotations = {
        "images": [{"id": 5, "height": 100, "width": 80}, {"id": 9, "height": 100, "width": 80}],
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


def _rewrite(path: Path, change: Callable[[list], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("backend", ["faster-coco-eval", "pycocotools"])
@pytest.mark.parametrize(("metric", "names"), GOLDEN)
def test_golden_average_precision(golden, metric, names, backend):
    values = _score(golden["annotations"], golden[metric], "--metric", metric, "--backend", backend)
    expected = [float(number) for number in GOLDEN[metric, names].split()]
    np.testing.assert_allclose([values[name] for name in names.split()], expected, rtol=0, atol=5.1e-7)


BOX_RECALL = [0.090482, 0.506627, 0.678072, 0.678072, 0.665848, 0.690000, 0.690710]
MASK_RECALL = [0.058795, 0.355422, 0.481807, 0.481807, 0.504914, 0.465833, 0.451366]


@pytest.mark.parametrize(
    ("kind", "options", "prefix", "expected"),
    [
        ("bbox", ["proposals"], "", BOX_RECALL),
        ("bbox", ["bbox", "--class-agnostic"], "", BOX_RECALL),
        ("segm", ["segm", "--class-agnostic"], "segm_", MASK_RECALL),
        ("segm", ["segm", "--class-agnostic", "--backend", "pycocotools"], "segm_", MASK_RECALL),
    ],
)
def test_golden_class_agnostic_recall(golden, kind, options, prefix, expected):
    values = _score(golden["annotations"], golden[kind], "--limits", 1, 10, 100, 1000, "--metric", *options)
    names = ["AR1", "AR10", "AR100", "AR1k", "AR1k_s", "AR1k_m", "AR1k_l"]
    np.testing.assert_allclose([values[prefix + name] for name in names], expected, rtol=0, atol=5.1e-7)
    assert len(values) == 16


def test_proposals_equal_pycocotools_to_the_last_digits(golden):
    values = _score(golden["annotations"], golden["bbox"], "--metric", "proposals")
    dataset, results = (json.loads(golden[name].read_text()) for name in ("annotations", "bbox"))
    expected = pycocotools_recall(dataset, results, (10, 30, 100, 1000))
    np.testing.assert_allclose(list(values.values()), expected.T.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_tied_scores_of_several_categories_follow_coco(tmp_path, seed):
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(10)] + [random_scene(np.random.default_rng(7))]
    dataset, results = coco_dataset(scenes), coco_results(scenes)
    for result in results:
        result["category_id"] = int(rng.integers(1, 6))
    results = [results[i] for i in rng.permutation(len(results))]
    annotations, path = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps(dataset))
    path.write_text(json.dumps(results))
    values = _score(annotations, path, "--metric", "proposals", "--limits", 2, 5, 30, "--area-thresholds", 10, 2000)
    expected = pycocotools_recall(dataset, results, (2, 5, 30), (10, 2000))
    got = [-1 if value is None else value for value in values.values()]
    np.testing.assert_allclose(got, expected.T.ravel(), rtol=0, atol=1e-12)


def test_columns_limits_and_null(small, capsys):
    values = _score(*small, "--metric", "proposals", "--limits", 1, 1000)
    # Of three objects the first is found at all 10 thresholds, the second (IoU 0.5) at one, as the second box.
    assert values == pytest.approx(
        {
            "AR1": 1 / 3, "AR1_s": 1 / 2, "AR1_m": 0, "AR1_l": None,
            "AR1k": 1.1 / 3, "AR1k_s": 1 / 2, "AR1k_m": 0.1, "AR1k_l": None,
        }
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "33.33" in shown
    assert "–" in shown


def test_area_thresholds_reach_every_metric(small):
    for metric, name in (("proposals", "AR100_s"), ("bbox", "APs")):
        assert _score(*small, "--metric", metric)[name] == pytest.approx(0.5, abs=0.01)
        assert _score(*small, "--metric", metric, "--area-thresholds", 50, 2000)[name] is None


def test_category_is_not_needed_for_recall(small):
    expected = _score(*small, "--metric", "proposals")
    _rewrite(small[1], lambda results: [result.pop("category_id") for result in results])
    assert _score(*small, "--metric", "proposals") == expected
    agnostic = _score(*small, "--metric", "bbox", "--class-agnostic", "--limits", 10, 30, 100, 1000)
    assert agnostic == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["proposals", "bbox", "segm"])
@pytest.mark.parametrize("backend", ["faster-coco-eval", "pycocotools"])
def test_empty_results_give_zeros(small, metric, backend):
    small[1].write_text("[]")
    values = _score(*small, "--metric", metric, "--backend", backend)
    assert {value for name, value in values.items() if not name.endswith(("_l", "APl"))} == {0}


def test_masks_of_other_tools_are_kept_out_of_the_proposals(small):
    """Result files with a mask beside each box score like those without."""
    expected = _score(*small, "--metric", "proposals")
    mask = {"size": [100, 80], "counts": "0"}
    _rewrite(small[1], lambda results: [result.update(segmentation=mask) for result in results])
    assert _score(*small, "--metric", "proposals") == expected


@pytest.mark.parametrize(
    ("metric", "change", "message"),
    [
        ("proposals", lambda a, r: r[1].update(image_id=77), "entry 1 (image 77): the annotation file lists no such"),
        ("bbox", lambda a, r: r[1].update(image_id=77), "entry 1 (image 77): the annotation file lists no such"),
        ("proposals", lambda a, r: r[1].update(image_id="5"), "entry 1 (image '5')"),
        ("bbox", lambda a, r: r[0].update(category_id=8), "entry 0 (image 5): category_id is 8"),
        ("segm", lambda a, r: r[0].pop("category_id"), "entry 0 (image 5): category_id is None"),
        ("proposals", lambda a, r: r[1].update(score=float("nan")), "entry 1 (image 5): score is nan"),
        ("bbox", lambda a, r: r[1].update(score=float("inf")), "entry 1 (image 5): score is inf"),
        ("proposals", lambda a, r: r[1].pop("score"), "entry 1 (image 5): score is None"),
        ("proposals", lambda a, r: r[0].update(bbox=[0, 0, float("nan"), 1]), "entry 0 (image 5): bbox is [0, 0, nan"),
        ("bbox", lambda a, r: r[0].update(bbox=[0, 0, 1]), "entry 0 (image 5): bbox is [0, 0, 1]"),
        ("proposals", lambda a, r: r[0].update(bbox=[0, 0, 1]), "entry 0 (image 5): bbox is [0, 0, 1]"),
        ("proposals", lambda a, r: r[0].update(bbox=["0", 0, 1, 1]), "entry 0 (image 5): bbox is ['0'"),
        ("proposals", lambda a, r: r[0].pop("image_id"), "entry 0 has no image_id"),
        ("bbox", lambda a, r: r[0].pop("image_id"), "entry 0 has no image_id"),
        ("proposals", lambda a, r: r[0].update(inner={"image_id": 5, "bbox": [0] * 4, "score": 1}), "inside other"),
        ("segm", lambda a, r: None, "entry 0 (image 5): segmentation is no RLE"),
        ("segm", lambda a, r: r[0].update(segmentation={"size": [9, 9], "counts": "0"}), "the mask's size is [9, 9]"),
        ("segm", lambda a, r: r[0].update(segmentation={"size": [100, 80], "counts": [3]}), "do not add up"),
        ("segm", lambda a, r: r[0].update(segmentation={"size": [100, 80], "counts": "o"}), "the mask's counts"),
        ("proposals", lambda a, r: a["annotations"][0].update(id=0), "annotation 0: COCO's evaluators read id 0"),
        ("bbox", lambda a, r: a["annotations"][0].update(id=7), "annotation id 7 stands twice"),
        ("bbox", lambda a, r: a["images"][0].update(id=9), "image id 9 stands twice"),
        ("bbox", lambda a, r: a["categories"][0].update(id=4), "category id 4 stands twice"),
        ("bbox", lambda a, r: a["annotations"][2].update(image_id=6), "annotation 7 belongs to image 6"),
        ("proposals", lambda a, r: a["annotations"][2].update(category_id=6), "annotation 7 has category_id 6"),
        ("bbox", lambda a, r: a["annotations"][2].update(bbox=[1, 2]), "annotation 7 has bbox [1, 2]"),
        ("bbox", lambda a, r: a["annotations"][2].update(area=float("nan")), "annotation 7 has area nan"),
        ("bbox", lambda a, r: a["annotations"][2].update(iscrowd=2), "annotation 7 has iscrowd 2"),
        ("bbox", lambda a, r: a["annotations"][2].pop("area"), "annotation 7 has area None"),
        ("segm", lambda a, r: a["annotations"][2].pop("segmentation"), "annotation 7 has no usable segmentation"),
        ("segm", lambda a, r: a["images"][1].pop("width"), "image 9 has no positive integer `width`"),
        ("bbox", lambda a, r: a["annotations"][1].pop("id"), "entry 1 of `annotations` has no integer `id`"),
        ("bbox", lambda a, r: a.pop("categories"), "has no list `categories`"),
        ("bbox", lambda a, r: a["images"].clear(), "lists no images"),
    ],
)  # fmt: skip
def test_bad_content_is_named(small, capsys, metric, change, message):
    annotations, results = (json.loads(path.read_text()) for path in small)
    change(annotations, results)
    for path, content in zip(small, (annotations, results), strict=True):
        path.write_text(json.dumps(content))
    assert main([str(path) for path in small] + ["--metric", metric]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "annotations.json" in error or "results.json" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b'[{"image_id": 5', "not a complete JSON"),
        (b"\xff\xfe", "not a complete JSON"),
        (b"3", "JSON"),
    ],
)
def test_bad_file_is_named(small, capsys, which, content, message):
    small[which].unlink() if content is None else small[which].write_bytes(content)
    for metric in ("proposals", "bbox"):
        assert main([str(path) for path in small] + ["--metric", metric]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert str(small[which]) in error


@pytest.mark.parametrize("options", [["--limits", "0"], ["--limits", "5", "5"], ["--area-thresholds", "9216", "1024"]])
@pytest.mark.parametrize("metric", ["proposals", "bbox"])
def test_bad_settings_are_named(small, capsys, metric, options):
    assert main([str(path) for path in small] + ["--metric", metric, *options]) == 2
    assert options[0].strip("-").replace("-", "_") in capsys.readouterr().err


def test_output_is_whole_or_absent(small, tmp_path, capsys):
    output = tmp_path / "folder" / "out.json"
    assert main([*map(str, small), "--metric", "bbox", "--output", str(output)]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["out.json"]
    assert json.loads(output.read_text())["AP50"] == pytest.approx(0.75, abs=0.01)
    assert main([*map(str, small), "--metric", "bbox", "--output", str(small[0] / "out.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_runs_as_a_module_without_a_traceback(small):
    command = [sys.executable, "-m", "fpn_lightning.evaluation", *map(str, small), "--metric", "proposals"]
    small[1].unlink()
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "results.json" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_proposals_are_grouped_by_image(small):
    _rewrite(small[1], lambda results: results.insert(0, {"image_id": 9, "bbox": [1, 2, 3, 4], "score": -2}))
    table = read_proposals(small[1], {5, 9})
    assert table.boxes_xywh[table.rows[9]].tolist() == [[1, 2, 3, 4]]
    assert table.scores[table.rows[5]].tolist() == [0.9, 0.5]

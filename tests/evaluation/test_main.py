from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.evaluation import plain_boxes, results
from fpn_lightning.evaluation.__main__ import main
from fpn_lightning.evaluation.results import read_results

from .reference import (
    assert_same_cells,
    coco_dataset,
    coco_results,
    pycocotools_average_precision,
    pycocotools_recall,
    random_masks,
    random_scene,
    scored,
    scored_content,
)

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "AR100_s", "AR100_m", "AR100_l")
GOLDEN = {
    ("bbox", NAMES): (
        "0.504581 0.696973 0.572982 0.585626 0.519400 0.501398 0.386813 0.593680 0.595353 0.639811 0.566421 0.564291"
    ),
    ("segm", tuple(f"segm_{name}" for name in NAMES)): (
        "0.319545 0.562288 0.298927 0.387374 0.310183 0.326934 0.268230 0.415449 0.416839 0.469450 0.376759 0.381472"
    ),
}


@pytest.fixture
def golden(coco_golden: Path, tmp_path: Path) -> dict[str, Path]:
    files = {"annotations": coco_golden / "instances_val2014_100.json"}
    for kind in ("bbox", "segm"):
        files[kind] = tmp_path / f"{kind}.json"
        files[kind].symlink_to(coco_golden / f"instances_val2014_fake{kind}100_results.json")
    return files


def _rewrite(path: Path, change: Callable[[list], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("backend", ["faster-coco-eval", "pycocotools"])
@pytest.mark.parametrize(("metric", "names"), GOLDEN)
def test_golden_average_precision(golden, metric, names, backend):
    values = scored(golden["annotations"], golden[metric], "--metric", metric, "--backend", backend)
    expected = [float(number) for number in GOLDEN[metric, names].split()]
    assert all(name.startswith("segm_") == (metric == "segm") for name in values)
    np.testing.assert_allclose([values[name] for name in names], expected, rtol=0, atol=5.1e-7)


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
    values = scored(golden["annotations"], golden[kind], "--limits", 1, 10, 100, 1000, "--metric", *options)
    names = ["AR1", "AR10", "AR100", "AR1k", "AR1k_s", "AR1k_m", "AR1k_l"]
    np.testing.assert_allclose([values[prefix + name] for name in names], expected, rtol=0, atol=5.1e-7)
    assert len(values) == 16


@pytest.mark.parametrize("seed", range(10))
def test_tied_scores_of_several_categories_follow_coco(tmp_path, seed):
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(10)] + [random_scene(np.random.default_rng(7))]
    dataset, results = coco_dataset(scenes), coco_results(scenes)
    for result in results:
        result["category_id"] = int(rng.integers(1, 6))
    results = [results[i] for i in rng.permutation(len(results))]
    options = ("--metric", "proposals", "--limits", 2, 5, 30, "--area-thresholds", 10, 2000)
    values = scored_content(tmp_path, dataset, results, *options)
    expected = pycocotools_recall(dataset, results, (2, 5, 30), (10, 2000))
    got = [-1 if value is None else value for value in values.values()]
    np.testing.assert_allclose(got, expected.T.ravel(), rtol=0, atol=1e-12)


def test_columns_limits_and_null(small, capsys):
    values = scored(*small, "--metric", "proposals", "--limits", 1, 1000)
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
        assert scored(*small, "--metric", metric)[name] == pytest.approx(0.5, abs=0.01)
        assert scored(*small, "--metric", metric, "--area-thresholds", 50, 2000)[name] is None


def test_category_is_not_needed_for_recall(small):
    expected = scored(*small, "--metric", "proposals")
    _rewrite(small[1], lambda results: [result.pop("category_id") for result in results])
    assert scored(*small, "--metric", "proposals") == expected
    agnostic = scored(*small, "--metric", "bbox", "--class-agnostic", "--limits", 10, 30, 100, 1000)
    assert agnostic == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["proposals", "bbox", "segm"])
@pytest.mark.parametrize("backend", ["faster-coco-eval", "pycocotools"])
def test_empty_results_give_zeros(small, metric, backend):
    small[1].write_text("[]")
    values = scored(*small, "--metric", metric, "--backend", backend)
    assert {value for name, value in values.items() if not name.endswith(("_l", "APl"))} == {0}


def test_masks_of_other_tools_are_kept_out_of_the_proposals(small):
    """Result files with a mask beside each box score like those without."""
    expected = scored(*small, "--metric", "proposals")
    mask = {"size": [100, 80], "counts": "0"}
    _rewrite(small[1], lambda results: [result.update(segmentation=mask) for result in results])
    assert scored(*small, "--metric", "proposals") == expected


def test_output_is_whole_or_absent(small, tmp_path, capsys):
    output = tmp_path / "folder" / "out.json"
    assert main([*map(str, small), "--metric", "bbox", "--output", str(output)]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["out.json"]
    assert json.loads(output.read_text())["AP50"] == pytest.approx(0.75, abs=0.01)
    assert main([*map(str, small), "--metric", "bbox", "--output", str(small[0] / "out.json")]) == 2
    scored, same_file = small[0].read_bytes(), small[0].parent / ".." / small[0].parent.name / small[0].name
    assert main([*map(str, small), "--metric", "bbox", "--output", str(same_file)]) == 2
    assert small[0].read_bytes() == scored
    assert "cannot be written" in capsys.readouterr().err


def test_proposals_are_grouped_by_image(small):
    _rewrite(small[1], lambda results: results.insert(0, {"image_id": 9, "bbox": [1, 2, 3, 4], "score": -2}))
    table = read_results(small[1], COCOIndex.open(small[0]))
    assert table.of(9).boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert table.of(5).scores.tolist() == [0.9, 0.5]
    assert table.of(7).boxes_xywh.shape == (0, 4)


def test_boxes_beside_masks_change_nothing(golden, tmp_path):
    """COCO's evaluator would take the area of the box for the mask's, and so move AP of small and large objects."""
    results = json.loads(golden["segm"].read_text())
    for result in results:
        result["bbox"] = [0, 0, 1, 1]
    with_boxes = tmp_path / "with_boxes.json"
    with_boxes.write_text(json.dumps(results))
    options = ("--metric", "segm")
    assert scored(golden["annotations"], with_boxes, *options) == scored(
        golden["annotations"], golden["segm"], *options
    )


def _scene_of_classes(seed: int, metric: str) -> tuple[dict, list]:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(10)]
    dataset, results = random_masks(rng) if metric == "segm" else (coco_dataset(scenes), coco_results(scenes))
    for result in results:
        result["category_id"] = int(rng.integers(1, 5))
    return dataset, results


@pytest.mark.parametrize("metric", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_backends_give_the_same_numbers(tmp_path, seed, metric):
    dataset, results = _scene_of_classes(seed, metric)
    options = ("--metric", metric, "--limits", 2, 5, 1000, "--area-thresholds", 40, 150, "--per-class", "--backend")
    fast, reference = (
        scored_content(tmp_path, dataset, results, *options, backend) for backend in ("faster-coco-eval", "pycocotools")
    )
    assert_same_cells(fast.pop("per_class"), reference.pop("per_class"))
    assert_same_cells(fast, reference)
    assert any(reference.values())


@pytest.mark.parametrize("backend", ["faster-coco-eval", "pycocotools"])
def test_boxes_of_masks_equal_pycocotools(tmp_path, backend):
    """A file of masks alone: the boxes are those around the masks, and the areas the masks'."""
    dataset, results = random_masks(np.random.default_rng(5))
    thresholds = (40, 150)
    values = scored_content(
        tmp_path, dataset, results, "--metric", "bbox", "--area-thresholds", *thresholds, "--backend", backend
    )
    assert_same_cells(
        values,
        pycocotools_average_precision(dataset, results, thresholds),
    )
    agnostic = scored_content(
        tmp_path, dataset, results, "--metric", "proposals", "--limits", 3, 100, "--area-thresholds", *thresholds
    )
    expected = pycocotools_recall(dataset, results, (3, 100), thresholds, "bbox")
    got = [-1 if value is None else value for value in agnostic.values()]
    np.testing.assert_allclose(got, expected.T.ravel(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", ["bbox", "segm"])
def test_class_agnostic_recall_equals_pycocotools(tmp_path, metric):
    dataset, results = _scene_of_classes(3, metric)
    options = ("--metric", metric, "--class-agnostic", "--limits", 1, 3, 1000, "--area-thresholds", 40, 150)
    values = scored_content(tmp_path, dataset, results, *options)
    expected = pycocotools_recall(dataset, results, (1, 3, 1000), (40, 150), metric)
    got = [-1 if value is None else value for value in values.values()]
    np.testing.assert_allclose(got, expected.T.ravel(), rtol=0, atol=1e-9)


def _grouped(dataset: dict, results: list, supercategories: dict[int, str]) -> tuple[dict, list]:
    """The same files rewritten by hand: one category for each supercategory, numbered from 1."""
    numbers = {name: number for number, name in enumerate(sorted(set(supercategories.values())), start=1)}
    items = [
        [{**item, "category_id": numbers[supercategories[item["category_id"]]]} for item in items]
        for items in (dataset["annotations"], results)
    ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {**dataset, "annotations": items[0], "categories": categories}, items[1]


def _scored_as_supercategories(tmp_path: Path, dataset: dict, results: list, metric: str) -> tuple[dict, dict]:
    """Values of ``--labels supercategory``, and pycocotools' of the rewritten files."""
    names = {category["id"]: category["supercategory"] for category in dataset["categories"]}
    paths = tmp_path / "annotations.json", tmp_path / "results.json"
    paths[0].write_text(json.dumps(dataset))
    merged = COCOIndex.open(paths[0], "supercategory").categories
    ids = dict(zip(merged.names, merged.ids, strict=True))  # what a detector of supercategories writes
    paths[1].write_text(json.dumps([{**item, "category_id": ids[names[item["category_id"]]]} for item in results]))
    options = ("--metric", metric, "--per-class")
    values = scored(*paths, *options, "--labels", "supercategory")
    expected = scored_content(tmp_path, *_grouped(dataset, results, names), *options, "--backend", "pycocotools")
    return values, expected


@pytest.mark.parametrize("metric", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_supercategories_equal_pycocotools_on_rewritten_files(tmp_path, seed, metric):
    dataset, results = _scene_of_classes(seed, metric)
    for category in dataset["categories"]:
        category["supercategory"] = "even" if category["id"] % 2 == 0 else "odd"
    values, expected = _scored_as_supercategories(tmp_path, dataset, results, metric)
    assert values["per_class"].keys() == {"even", "odd"}
    assert_same_cells(values.pop("per_class"), expected.pop("per_class"))
    assert_same_cells(values, expected)
    assert any(expected.values())


def test_cocos_supercategories_equal_pycocotools_on_rewritten_files(golden, tmp_path):
    dataset, results = (json.loads(golden[name].read_text()) for name in ("annotations", "bbox"))
    values, expected = _scored_as_supercategories(tmp_path, dataset, results, "bbox")
    assert len(values["per_class"]) == 12
    assert_same_cells(values.pop("per_class"), expected.pop("per_class"))
    assert_same_cells(values, expected)


def test_results_of_the_other_kind_of_labels_are_rejected(small, capsys):
    _rewrite(small[0], lambda content: [c.update(supercategory="thing") for c in content["categories"]])
    options = [*map(str, small), "--metric", "bbox"]
    assert main([*options, "--labels", "supercategory"]) == 2
    assert "category_id is 3, which is not one of the annotation file's supercategories" in capsys.readouterr().err
    _rewrite(small[1], lambda results: [result.update(category_id=5) for result in results])
    assert main([*options, "--labels", "supercategory"]) == 0
    assert main(options) == 2
    assert "not one of the annotation file's categories; give --labels" in capsys.readouterr().err


def test_limits_do_not_change_ap(tmp_path):
    dataset, results = _scene_of_classes(0, "bbox")
    usual = scored_content(tmp_path, dataset, results, "--metric", "bbox")
    other = scored_content(tmp_path, dataset, results, "--metric", "bbox", "--limits", 3, 1000)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert {name: usual[name] for name in names} == {name: other[name] for name in names}
    assert "AR3" in other
    assert "AR100" not in other


def test_polygons_are_masks_of_a_result_too(small):
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    small[1].write_text(json.dumps([{"image_id": 5, "category_id": 3, "segmentation": square, "score": 1}]))
    assert scored(*small, "--metric", "segm", "--class-agnostic")["segm_AR10"] == pytest.approx(1 / 3)


def test_the_index_of_a_read_only_folder_lies_in_the_cache(small, tmp_path, cache):
    folder = tmp_path / "data"
    folder.mkdir()
    annotations = small[0].rename(folder / small[0].name)
    folder.chmod(0o555)
    try:
        assert scored(annotations, small[1], "--metric", "proposals")["AR100"] > 0
        assert [path.name for path in folder.iterdir()] == [annotations.name]
        assert len(list(cache.iterdir())) == 1
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("metric", ["bbox", "proposals", "segm"])
def test_files_are_scored_without_torch(tmp_path, metric):
    """Importing torch takes longer than scoring a usual file."""
    box, size = [10.0, 10.0, 20.0, 20.0], {"height": 64, "width": 64}
    square = {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]], "bbox": box, "image_id": 1, "category_id": 1}
    annotations = {
        "images": [{"id": 1, "file_name": "1.png", **size}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{**square, "id": 1, "area": 400, "iscrowd": 0}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text(json.dumps([{**square, "score": 0.5}]))
    program = (
        "import sys\n"
        "import fpn_lightning\n"
        "assert not {'torch', 'numpy', 'lightning'} & set(sys.modules)\n"
        "from fpn_lightning.evaluation.__main__ import main\n"
        f"main(['annotations.json', 'results.json', '--metric', {metric!r}, '--output', 'scores.json'])\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert 1.0 in scores.values()
    assert set(scores.values()) <= {1.0, None}


@pytest.mark.parametrize("with_classes", [False, True])
def test_plain_boxes_are_read_as_results_one_by_one(golden, monkeypatch, with_classes):
    index = COCOIndex.open(golden["annotations"])
    at_once = read_results(golden["bbox"], index, with_classes=with_classes)
    assert plain_boxes.read_plain_boxes(golden["bbox"], index, with_classes) is not None
    monkeypatch.setattr(results, "read_plain_boxes", lambda *_: None)
    one_by_one = read_results(golden["bbox"], index, with_classes=with_classes)
    assert at_once.rows == one_by_one.rows
    for name in ("boxes_xywh", "scores", "labels", "areas"):
        columns = (getattr(table.results, name) for table in (at_once, one_by_one))
        np.testing.assert_array_equal(*columns)

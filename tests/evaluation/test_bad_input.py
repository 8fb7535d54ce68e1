from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fpn_lightning.evaluation.__main__ import main


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
        ("segm", lambda a, r: None, "entry 0 (image 5): segmentation is not a mask"),
        ("segm", lambda a, r: r[0].update(segmentation={"size": [9, 9], "counts": "0"}), "its size is not [100, 80]"),
        ("segm", lambda a, r: r[0].update(segmentation={"size": [100, 80], "counts": [3]}), "their sum is not"),
        ("segm", lambda a, r: r[0].update(segmentation={"size": [100, 80], "counts": "o"}), "its counts are wrong"),
        ("proposals", lambda a, r: a["annotations"][0].update(id=0), "annotation id 0;"),
        ("bbox", lambda a, r: a["annotations"][0].update(id=7), "duplicate annotation id 7"),
        ("bbox", lambda a, r: a["images"][0].update(id=9), "duplicate image id 9"),
        ("bbox", lambda a, r: a["categories"][0].update(id=4), "duplicate category id 4"),
        ("bbox", lambda a, r: a["annotations"][2].update(image_id=6), "annotation 7: unknown image_id 6"),
        ("proposals", lambda a, r: a["annotations"][2].update(category_id=6), "annotation 7: unknown category_id 6"),
        ("bbox", lambda a, r: a["annotations"][2].update(bbox=[1, 2]), "annotation 7: 'bbox' is [1, 2]"),
        ("bbox", lambda a, r: a["annotations"][2].update(area=float("nan")), "annotation 7: 'area' is nan"),
        ("bbox", lambda a, r: a["annotations"][2].update(iscrowd=2), "annotation 7: 'iscrowd' is 2"),
        ("bbox", lambda a, r: a["annotations"][2].pop("area"), "annotation 7: 'area' is missing"),
        ("segm", lambda a, r: [r.clear(), a["annotations"][2].pop("segmentation")], "annotation 7 (image 9) has no"),
        ("segm", lambda a, r: a["images"][1].pop("width"), "image 9: 'width' is missing"),
        ("bbox", lambda a, r: a["annotations"][1].pop("id"), "annotation at index 1: 'id' is missing"),
        ("bbox", lambda a, r: a.pop("categories"), "'categories' is missing"),
        ("bbox", lambda a, r: a.pop("annotations"), "has no list 'annotations'"),
        ("bbox", lambda a, r: a["images"].clear(), "'images' is empty"),
    ],
)  # fmt: skip
def test_bad_content_is_named(small, capsys, metric, change, message):
    annotations, results = (json.loads(path.read_text()) for path in small)
    change(annotations, results)
    for path, content in zip(small, (annotations, results), strict=True):
        path.write_text(json.dumps(content))
    assert main([str(path) for path in small] + ["--metric", metric]) == 2
    *notes, error = capsys.readouterr().err.splitlines()
    assert message in error
    assert "annotations.json" in error or "results.json" in error
    assert all(note.startswith("note: ") for note in notes)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b'[{"image_id": 5', "JSON"),
        (b"\xff\xfe", "JSON"),
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


def test_runs_as_a_module_without_a_traceback(small):
    command = [sys.executable, "-m", "fpn_lightning.evaluation", *map(str, small), "--metric", "proposals"]
    small[1].unlink()
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "results.json" in bad.stderr
    assert "Traceback" not in bad.stderr

"""``test`` on a split without annotations: the file for COCO's evaluation server, from one process and from two."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from fpn_lightning.evaluation.__main__ import main as score
from tests.command_line import REPOSITORY, read_metrics, run_python

NAME = "detections_test-dev2017_c-fpn_results.json"
TEST_DEV = ["--data.test_split", "test-dev2017"]
# An untrained detector has detections only if all scores are kept.
KEEP = ["--model.detector.roi_heads.score_thresh", "0.0"]
# More than the server accepts.
MANY = ["--model.detector.roi_heads.detections_per_image", "300"]


@pytest.fixture
def root(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data set, with its validation images once more as COCO lays out its test set."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    shutil.copytree(root / "val", root / "test2017")
    listed = json.loads((root / "annotations" / "instances_val.json").read_text())
    del listed["annotations"]
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(listed))
    return root


@pytest.fixture
def rpn(cli, arguments, run, root) -> Path:
    """A run of one step, with stores of its proposals."""
    cli("fit", *arguments, "--trainer.max_steps", "1", "--data.root", str(root))
    for split in ("train", "val", "test-dev2017"):
        cli("predict", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", split)
    return run


@pytest.fixture
def detector(cli, arguments, rpn, root, tmp_path) -> Path:
    """Fast R-CNN after one step."""
    row = REPOSITORY / "configs" / "table2" / "c_fpn.yaml"
    cli("fit", "--config", str(row), *arguments[2:], "--trainer.max_steps", "1", "--data.root", str(root))
    return tmp_path / "runs" / "mini" / "table2" / "c_fpn" / "seed0"


def saved(run: Path) -> list[str]:
    return ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]


def test_the_file_has_the_servers_format_and_gives_the_metrics_of_validation(cli, detector, root, tmp_path, capsys):
    cli("test", *saved(detector), *KEEP, *MANY, *TEST_DEV)
    assert [path.name for path in (detector / "test").glob("*.json")] == [NAME]
    assert not list((detector / "test").glob(".*"))
    assert f"detections of 5 images written to {detector / 'test' / NAME}" in capsys.readouterr().out
    rows = json.loads((detector / "test" / NAME).read_text())
    assert {tuple(row) for row in rows} == {("image_id", "category_id", "bbox", "score")}
    annotations = root / "annotations" / "instances_val.json"
    truth = json.loads(annotations.read_text())
    found = Counter(row["image_id"] for row in rows)
    assert set(found) == {image["id"] for image in truth["images"]}
    assert max(found.values()) == 100
    assert {row["category_id"] for row in rows} <= {category["id"] for category in truth["categories"]}
    assert all(x >= 0 and y >= 0 and x + w <= 64 and y + h <= 64 for x, y, w, h in (row["bbox"] for row in rows))
    # The images are those of val, so the server's metrics have to be those of validation.
    cli("validate", *saved(detector), *KEEP)
    out, thresholds = tmp_path / "scores.json", ["--area-thresholds", "85", "769"]
    command = [str(annotations), str(detector / "test" / NAME), "--metric", "bbox", "--output", str(out)]
    assert score([*command, *thresholds]) == 0
    logged = read_metrics(detector / "validate" / "metrics.json")
    assert logged["AP"] is not None
    for key, value in json.loads(out.read_text()).items():
        assert value == pytest.approx(logged[key], abs=1e-9), key


def test_results_of_a_part_of_a_split_are_rejected(cli, detector, capsys):
    folder = detector / "test"
    with pytest.raises(SystemExit):
        cli("test", *saved(detector), *KEEP, *TEST_DEV, "--trainer.limit_test_batches", "2")
    assert (
        f"{folder / NAME} was not written, because 2 images have results, but the split has 5."
        in capsys.readouterr().err
    )
    assert not [path for path in folder.iterdir() if "detections" in path.name]


def test_a_split_with_annotations_is_evaluated_and_gives_no_file(cli, detector):
    cli("test", *saved(detector), *KEEP, "--data.test_split", "val")
    assert {"AP", "AP50"} <= read_metrics(detector / "test" / "metrics.json").keys()
    assert not list((detector / "test").glob("*_results.json"))


def test_an_rpn_is_rejected(cli, rpn, capsys):
    with pytest.raises(SystemExit) as stop:
        cli("test", *saved(rpn), *TEST_DEV)
    assert stop.value.code == 2
    assert "no annotations, so there is nothing to score" in capsys.readouterr().err
    assert not [path for path in (rpn / "test").iterdir() if "detections" in path.name]


@pytest.mark.slow
def test_two_processes_write_the_same_file(cli, detector, tmp_path):
    cli("test", *saved(detector), *KEEP, *TEST_DEV)
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--experiment.root", str(tmp_path / "two")]
    done = run_python("test", *saved(detector), *KEEP, *TEST_DEV, *two, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    other = tmp_path / "two" / detector.relative_to(tmp_path / "runs") / "test"
    assert (other / NAME).read_text() == (detector / "test" / NAME).read_text()
    assert not list(other.glob(".*.part"))

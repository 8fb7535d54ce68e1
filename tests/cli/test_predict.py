"""``predict`` on a split writes the model's predictions for every image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fpn_lightning.evaluation.__main__ import main as score


@pytest.fixture
def untrained(cli, arguments, run) -> list[str]:
    """Arguments that predict with the weights of a run of one step."""
    cli("fit", *arguments, "--trainer.max_steps", "1")
    return ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]


def detections(run: Path) -> list[dict]:
    return json.loads((run / "predict" / "detections.json").read_text())


def test_a_split_gives_every_image_and_the_models_own_proposals(cli, untrained, run):
    called = cli("predict", *untrained, "--data.predict_split", "val", "--detections.of_splits", "true")
    found = detections(run)
    assert [row["image_id"] for row in found] == sorted(row["image_id"] for row in found)
    data, model = called.datamodule, called.model.eval()
    seen = set()
    for batch in data.predict_dataloader():
        with torch.no_grad():
            (expected,) = model.predict_step(batch, 0)
        rows = [row for row in found if row["image_id"] == expected.image_id]
        seen.add(expected.image_id)
        assert len(rows) == min(100, len(expected))
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64)
        assert torch.equal(boxes[:, :2], expected.boxes_orig[:100, :2])
        torch.testing.assert_close(boxes[:, :2] + boxes[:, 2:], expected.boxes_orig[:100, 2:], atol=1e-9, rtol=0)
        scores = [row["score"] for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert 0 < scores[-1] <= scores[0] < 1
        assert {(row["category_id"], row["category"]) for row in rows} == {(1, "object")}
        assert {row["file_name"] for row in rows} == {data.prediction_images.file_name(expected.image_id)}
    assert seen == set(data.prediction_images.index.image_ids.tolist()) == {row["image_id"] for row in found}
    assert not list(run.glob("predict/.*"))


def test_folders_in_a_folder_are_read(cli, untrained, run, tiny_data, tmp_path):
    first, second, *_ = sorted((tiny_data / "val").iterdir())
    folder = tmp_path / "images"
    names = ["a/b/one.png", "a/one.png", "two.png"]
    for name, source in zip(names, (first, second, first), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(source)
    (folder / "a" / "again").symlink_to(folder)  # without an end
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "three.png").symlink_to(first)
    cli("predict", *untrained, "--data.predict_path", str(folder))
    assert list(dict.fromkeys((row["image_id"], row["file_name"]) for row in detections(run))) == [*enumerate(names, 1)]
    pictures = run / "predict" / "pictures"
    assert sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png")) == [f"{n}.png" for n in names]


def test_no_readable_image_is_an_error_of_one_line(cli, untrained, run, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_text("text")
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_status:
        cli("predict", *untrained, "--data.predict_path", str(folder))
    assert exit_status.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert f"none of the 2 images could be read; the first reason: {folder / 'a.png'}: not an image" in errors[0]
    assert not (run / "predict" / "detections.json").exists()
    assert [image["file_name"] for image in json.loads((run / "predict" / "skipped.json").read_text())] == [
        "a.png",
        "b.png",
    ]


def test_results_of_a_folder_are_not_scored_as_those_of_a_split(cli, untrained, run, tiny_data, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, path in enumerate(sorted((tiny_data / "val").iterdir())):
        (folder / f"holiday{i}.png").symlink_to(path)
    cli("predict", *untrained, "--data.predict_path", str(folder))
    annotations = tiny_data / "annotations" / "instances_val.json"
    assert score([str(annotations), str(run / "predict" / "detections.json"), "--metric", "proposals"]) == 2
    assert "predict the split again with --data.predict_split" in capsys.readouterr().err

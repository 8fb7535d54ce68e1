"""``predict`` on a split writes the model's predictions for every image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch


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
        assert {row["category_id"] for row in rows} == {1}
        assert {row["file_name"] for row in rows} == {data.prediction_images.file_name(expected.image_id)}
    assert seen == set(data.prediction_images.index.image_ids.tolist()) == {row["image_id"] for row in found}
    assert not list(run.glob("predict/.*"))

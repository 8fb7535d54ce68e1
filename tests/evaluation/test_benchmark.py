from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TABLE = "--- | --- | --- | --- | --- | ---"


@pytest.fixture
def load(monkeypatch):
    """Import a script of benchmarks/; what importing and running it changes in this process is undone."""
    threads = torch.get_num_threads()
    # Scripts measure memory in forked children, where a thread pool that earlier tests started would never answer.
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)
    torch.set_num_threads(threads)


def written_rows(report: Path) -> list[list[str]]:
    lines = report.read_text().splitlines()
    assert lines[0] == "# Benchmarks"
    return [line.split(" | ") for line in lines[lines.index(TABLE) + 1 :]]


def test_recall_benchmark_at_a_tiny_size(load, tmp_path):
    output = tmp_path / "reports" / "benchmarks.md"
    for _ in range(2):
        arguments = ["--images", "5", "--boxes", "20", "--rounds", "1", "--output", str(output)]
        assert load("recall").main(arguments) == 0
    rows = written_rows(output)
    assert [row[1].split(":")[0] for row in rows] == ["pycocotools evaluate()", "faster-coco-eval evaluate()"] * 2
    assert all(float(row[1].split()[-2]) > 0 for row in rows)


def test_segment_recall_benchmark_at_a_tiny_size(load, tmp_path, capsys):
    output = tmp_path / "benchmarks.md"
    arguments = ["--images", "3", "--masks", "30", "--rounds", "1", "--output", str(output)]
    assert load("segment_recall").main(arguments) == 0
    assert "pycocotools: all 12 cells agree" in capsys.readouterr().out
    rows = written_rows(output)
    assert [row[1].split(":")[0] for row in rows] == ["pycocotools evaluate()", "faster-coco-eval evaluate()"]
    assert rows[0][0] == "segment recall, 3 images x 30 masks, 1 thread"
    assert all(float(row[1].split()[-2]) > 0 for row in rows)


def test_mask_benchmark_at_a_tiny_size(load, tmp_path):
    output = tmp_path / "benchmarks.md"
    script = load("mask_proposals")
    assert script.time_run_lengths(1, output, count=60) == 0
    script.time_training(1, output, batch=2, side=64)
    ours, training = written_rows(output)
    assert ours[0].startswith("run lengths of 60 masks, 480 x 640 px")
    # How much and how fast is measured by the script, not judged here: both hang on what else a process has done.
    own, peer = (float(text.split()[-2]) for text in ours[2].split(", "))
    assert min(own, peer) >= 0
    assert min(float(row[1].split()[-2]) for row in (ours, training)) > 0


def test_average_precision_benchmark_at_a_tiny_size(load, tmp_path, capsys):
    output = tmp_path / "benchmarks.md"
    arguments = ["--images", "6", "--detections", "30", "--rounds", "1", "--output", str(output)]
    assert load("average_precision").main(arguments) == 0
    assert "all 92 numbers agree" in capsys.readouterr().out
    ((work, peer, memory, *_),) = written_rows(output)
    assert work == "average precision, 6 images x 30 detections, 1 thread"
    assert peer.startswith("pycocotools loadRes() to summarize(): ")
    assert float(peer.split()[-2]) > 0
    assert "MiB, peer " in memory


@pytest.mark.parametrize(
    ("name", "home", "function", "boxes"),
    [
        ("recall", "recall_peers", "peer_recall", "--boxes"),
        ("segment_recall", "recall_peers", "peer_recall", "--masks"),
        ("average_precision", "average_precision", "peer_values", "--detections"),
    ],
)
def test_a_difference_writes_nothing(load, tmp_path, monkeypatch, capsys, name, home, function, boxes):
    script = load(name)
    monkeypatch.setattr(load(home), function, lambda evaluator: 0.5)
    output = tmp_path / "benchmarks.md"
    assert script.main(["--images", "2", boxes, "20", "--output", str(output)]) == 1
    assert "pycocotools differs from us" in capsys.readouterr().err
    assert not output.exists()

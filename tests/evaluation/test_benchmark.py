from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def recall_script(monkeypatch):
    """The script as a module; what importing and running it changes in this process is undone."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("recall")
    for name in ("recall", "compare"):
        sys.modules.pop(name, None)
    torch.set_num_threads(threads)


def test_recall_benchmark_at_a_tiny_size(recall_script, tmp_path):
    output = tmp_path / "reports" / "benchmarks.md"
    for _ in range(2):
        arguments = ["--images", "5", "--boxes", "20", "--rounds", "1", "--output", str(output)]
        assert recall_script.main(arguments) == 0
    lines = output.read_text().splitlines()
    assert lines[0] == "# Benchmarks"
    rows = [line.split(" | ") for line in lines[lines.index("--- | --- | --- | --- | --- | ---") + 1 :]]
    assert [row[1].split(":")[0] for row in rows] == ["pycocotools evaluate()", "faster-coco-eval evaluate()"] * 2
    assert all(float(row[1].split()[-2]) > 0 for row in rows)


def test_a_difference_writes_nothing(recall_script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recall_script, "peer_recall", lambda evaluator: 0.5)
    output = tmp_path / "benchmarks.md"
    assert recall_script.main(["--images", "2", "--boxes", "20", "--output", str(output)]) == 1
    assert "pycocotools differs from us" in capsys.readouterr().err
    assert not output.exists()

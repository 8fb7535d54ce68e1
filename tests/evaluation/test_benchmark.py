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


BOTH = ["pycocotools evaluate()", "faster-coco-eval evaluate()"]


@pytest.mark.parametrize(
    ("name", "count", "agreed", "work", "peers"),
    [
        ("recall", "--boxes", "agree", "proposal recall, 5 images x 30 boxes", BOTH),
        ("segment_recall", "--masks", "pycocotools: all 12 numbers agree", "segment recall, 5 images x 30 masks", BOTH),
        (
            *("average_precision", "--detections", "all 92 numbers agree"),
            *("average precision, 5 images x 30 detections", ["pycocotools loadRes() to summarize()"]),
        ),
    ],
)
def test_metric_benchmarks_at_a_tiny_size(load, tmp_path, capsys, name, count, agreed, work, peers):
    output = tmp_path / "reports" / "benchmarks.md"
    for _ in range(2):
        arguments = ["--images", "5", count, "30", "--rounds", "1", "--output", str(output)]
        assert load(name).main(arguments) == 0
    assert agreed in capsys.readouterr().out
    rows = written_rows(output)
    assert [row[1].split(":")[0] for row in rows] == peers * 2
    for row in rows:
        assert row[0] == f"{work}, 1 thread"
        assert float(row[1].split()[-2]) > 0
        assert "MiB, peer " in row[2]


def test_mask_benchmark_at_a_tiny_size(load, tmp_path):
    output = tmp_path / "benchmarks.md"
    script = load("mask_proposals")
    assert script.time_run_lengths(1, output, count=60) == 0
    script.time_training(1, output, batch=2, side=64)
    ours, training = written_rows(output)
    assert ours[0].startswith("run lengths of 60 masks, 480 x 640 px")
    # Only the signs: memory and time depend on what else the process has done.
    own, peer = (float(text.split()[-2]) for text in ours[2].split(", "))
    assert min(own, peer) >= 0
    assert min(float(row[1].split()[-2]) for row in (ours, training)) > 0


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
    assert "the numbers of pycocotools differ from ours" in capsys.readouterr().err
    assert not output.exists()


def test_detector_benchmark_at_a_tiny_size(load, tmp_path, capsys):
    from fpn_lightning.models.backbones.narrow import NarrowResNet

    script = load("detector_time")
    stages = script.detectors(NarrowResNet, proposals=20)
    output = tmp_path / "benchmarks.md"
    script.compare(stages, (96, 128), rounds=1, output=output)
    assert capsys.readouterr().out.count("with 20 proposals") == 2
    ((work, peer, memory, *_),) = written_rows(output)
    assert work.startswith("detect in an image of 96 x 128, 1 thread, on FPN with 2fc (")
    assert float(peer.split()[-2]) > 0
    assert "MiB, peer " in memory


def test_flops_of_a_detector_grow_with_what_its_head_runs_on_a_region(load):
    from fpn_lightning.models.backbones.narrow import NarrowResNet

    script = load("detector_time")
    images = script.noise(1, (64, 96), 32)
    counts = [
        {name: script.count_flops(stage, images) for name, stage in script.detectors(NarrowResNet, proposals).items()}
        for proposals in (10, 20)
    ]
    assert all(
        seen == proposals for count, proposals in zip(counts, (10, 20), strict=True) for _, seen in count.values()
    )
    per_region = {name: (counts[1][name][0] - counts[0][name][0]) / 10 for name in counts[0]}
    # 2fc on 7 x 7 x 256: two products, class logits and deltas of 80 classes; a multiplication and an addition each.
    assert per_region[script.FPN_ROW] == 2 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    assert per_region[script.C4_ROW] > 0


@pytest.mark.slow
def test_gpu_benchmark_at_a_tiny_size_on_the_cpu(load, tmp_path, monkeypatch):
    peer, script = load("torchvision_peer"), load("gpu")
    monkeypatch.setattr(peer, "PROPOSALS", 50)
    size, output = (64, 96), tmp_path / "benchmarks.md"
    bench = script.Bench(torch.device("cpu"), 0, output)
    images, truth = script.noise(2, size, 32), [script.objects(size)] * 2
    pair = peer.make_pair("resnet18", 16, images, truth)
    assert peer.check_same_detections(pair)
    bench.share = 0
    bench.compare("detect", script.detection(bench, pair, "bf16-mixed"))
    bench.compare("a step", script.training(bench, pair, "float32"))
    ours, training = written_rows(output)
    assert ours[0].startswith("detect, ours in ")
    assert training[0].startswith("a step, ours in ")
    assert all(row[1].startswith("torchvision in ") and float(row[1].split()[-2]) > 0 for row in (ours, training))


def test_gpu_benchmark_measures_nothing_if_detections_differ(load, tmp_path, monkeypatch, capsys):
    script = load("gpu")
    monkeypatch.setattr(script, "check_same_detections", lambda pair: False)
    monkeypatch.setattr(script, "make_pair", lambda *args: None)
    output = tmp_path / "benchmarks.md"
    assert script.main(["--device", "cpu", "--size", "small", "--output", str(output)]) == 1
    assert "nothing is measured" in capsys.readouterr().err
    assert not output.exists()


def test_the_peer_has_to_detect_the_same(load, monkeypatch):
    peer, script = load("torchvision_peer"), load("gpu")
    monkeypatch.setattr(peer, "PROPOSALS", 50)
    pair = peer.make_pair("resnet18", 16, script.noise(1, (64, 96), 32), [script.objects((64, 96))])
    pair.ours.roi_heads.nms_thresh = 0.4
    assert not peer.check_same_detections(pair)


def test_the_floor_counts_the_kernels_of_a_work(load):
    script = load("cpu_speed")
    x, weight, calls = torch.randn(1, 64, 56, 56), torch.randn(64, 64, 3, 3), 3

    def work() -> None:
        for _ in range(calls):
            torch.nn.functional.conv2d(x, weight, padding=1).relu()

    recorder = script.record(work)
    assert list(recorder.calls.values()) == [calls]
    (seconds,) = script.floor(recorder).values()
    assert 0 < seconds < 10


def test_growth_is_the_exponent_between_the_last_two_points(load, tmp_path):
    script = load("growth")
    squares = script.Growth("objects", "square", (1, 2, 4), seconds=[1, 4, 16], mib=[8, 8, 8])
    script.write([squares, script.Growth("processes", "step", (1, 2), seconds=[3, 4])], tmp_path / "growth.md")
    text = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert "objects | square | 1, 2, 4 | 1, 4, 16 | 2.00 | 8, 8, 8 | 0.00\n" in text
    assert text.endswith("Efficiency of 2 processes against one: 0.75.\n")
    assert (tmp_path / "growth.png").stat().st_size > 1000


@pytest.mark.parametrize("equal", [True, False])
def test_loading_is_measured_if_the_batches_are_equal(load, coco_mini, tmp_path, monkeypatch, equal):
    script, compare = load("loading"), load("compare")
    monkeypatch.setattr(script, "append_line", lambda *row: compare.append_line(*row, path=tmp_path / "benchmarks.md"))
    if not equal:
        monkeypatch.setattr(script, "IMAGENET_STD", (0.4, 0.4, 0.4))  # of torchvision
    monkeypatch.setattr(sys, "argv", ["loading.py", "--root", str(coco_mini), "--images", "4", "--rounds", "1"])
    if not equal:
        with pytest.raises(SystemExit, match="batch differs from ours; nothing is written"):
            script.main()
        assert not (tmp_path / "benchmarks.md").exists()
        return
    script.main()
    ((work, peer, *_),) = written_rows(tmp_path / "benchmarks.md")
    assert "collate and normalise 4 photographs" in work
    assert float(peer.split()[-2]) > 0

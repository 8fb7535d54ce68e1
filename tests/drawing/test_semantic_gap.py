"""The linear classifiers of single cells: which cells they see, how they are fitted, and the command."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from fpn_lightning.drawing.semantic_gap import NAMES, Cells, balanced_accuracy, fit, gather, main, probe
from fpn_lightning.geometry import Geometry
from fpn_lightning.structures import Batch, ImageBatch, Targets

STRIDES = {f"{kind}{k}": 2**k for kind in "pc" for k in range(2, 6)}


def places(names: str) -> dict[str, torch.Tensor]:
    """Maps of a 64 x 96 image in which each cell holds its own column, row and stride."""
    maps = {}
    for name, stride in STRIDES.items():
        if name[0] in names:
            x, y = torch.meshgrid(torch.arange(96 // stride), torch.arange(64 // stride), indexing="xy")
            maps[name] = torch.stack((x, y, torch.full_like(x, stride))).float()[None]
    return maps


class Part(SimpleNamespace):
    def __call__(self, _: object) -> dict[str, torch.Tensor]:
        return places(self.names)


def test_the_cell_of_every_map_lies_at_the_centre_of_the_box():
    parts = {"backbone": Part(names="c", strides=STRIDES), "pyramid": Part(names="p", strides=STRIDES)}
    detector: Any = SimpleNamespace(**parts)
    detector.to = lambda device: detector
    size = (64, 96)

    def batch(image_id: int, boxes: list[list[float]], labels: list[int]) -> Batch:
        pixels = torch.zeros(1, 3, *size, dtype=torch.uint8)
        images = ImageBatch(pixels, torch.tensor([size]), torch.tensor([image_id]), [Geometry(size, size)])
        return Batch(images, [Targets(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64))])

    batches = [batch(8, [[0, 0, 6, 20], [90, 60, 96, 64]], [3, 1]), batch(5, [], []), batch(2, [[40, 30, 50, 34]], [0])]
    data: Any = SimpleNamespace(val_dataloader=lambda: iter(batches))
    cells = gather(detector, data, "cpu")
    assert (cells.labels.tolist(), cells.images.tolist()) == ([3, 1, 0], [1, 1, 0])
    assert cells.maps.keys() == set(NAMES)
    for name, stride in STRIDES.items():
        expected = [[x // stride, y // stride, stride] for x, y in ((3, 10), (93, 62), (45, 32))]
        assert cells.maps[name].tolist() == expected, name


def test_classes_count_the_same_however_many_objects_they_have():
    generator = torch.Generator().manual_seed(0)
    cells, labels = torch.randn(30, 4, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    cells += labels[:, None]
    weights = fit(cells, labels, 3)
    twice = torch.cat((torch.arange(30), *[torch.arange(0, 30, 3)] * 4))  # class 0 five times
    torch.testing.assert_close(fit(cells[twice], labels[twice], 3), weights, rtol=0, atol=1e-4)
    assert not torch.allclose(fit(cells[:29], labels[:29], 3), weights, atol=1e-3)


def test_accuracy_by_hand():
    # Class 0 has three objects in image 0, two of them right; class 1 one in image 1, right; class 2 none.
    cells = Cells({}, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 1]))
    value, low, high = balanced_accuracy(torch.tensor([True, True, False, True]), cells, 3)
    assert value == pytest.approx((2 / 3 + 1) / 2)
    assert (low, high) == pytest.approx((2 / 3, 1))  # draws of one of the images only


def test_a_map_that_tells_classes_apart_and_one_that_does_not():
    generator = torch.Generator().manual_seed(1)

    def cells(count: int) -> Cells:
        labels = torch.randint(4, (count,), generator=generator)
        noise = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        clear = torch.nn.functional.one_hot(labels, 4) * 8 + noise[:, :4] - 100
        return Cells({"p2": clear, "c2": noise}, labels, torch.arange(count))

    results = probe(cells(400), cells(400), 4)
    assert results["p2"][0] > 0.99
    value, low, high = results["c2"]
    assert low < 0.25 < high
    assert 0.15 < value < 0.35
    assert high - low < 0.15


def test_figure_and_table_of_two_runs(cli, arguments, run: Path, tmp_path: Path, capsys) -> None:
    other = run.parent / "longer" / "seed0"
    for options in ([], ["--experiment.variant", "longer"]):
        cli("fit", *arguments, "--trainer.max_steps", "1", "--pictures.num_images", "0", *options)
    output = tmp_path / "out" / "gap.png"
    assert main([str(run), str(other), "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert min(picture.size) > 300
    first = output.read_bytes(), output.with_suffix(".md").read_bytes()
    rows = [line for line in first[1].decode().splitlines() if "seed0" in line]
    titles = [line.split(" | ")[0] for line in rows]
    assert titles == [
        f"| {row}/seed0: {maps}" for row in ("c_fpn", "c_fpn/longer") for maps in ("p2 to p5", "c2 to c5")
    ]
    assert all(line.count("(") == 4 for line in rows)
    assert main([str(run), str(other), "--output", str(output)]) == 0
    assert (output.read_bytes(), output.with_suffix(".md").read_bytes()) == first
    (other / "config.yaml").write_text("model: 3\ndata: {}\n")
    for wrong in (other, tmp_path):
        assert main([str(wrong)]) == 2
        assert "not the configuration of a run" in capsys.readouterr().err


def test_a_row_without_the_maps(cli, arguments, run: Path, capsys) -> None:
    single = run.parent.parent / "a_conv4" / "seed0"
    cli("fit", "--config", "configs/table1/a_conv4.yaml", *arguments[2:], "--trainer.max_steps", "1")
    assert main([str(single)]) == 2
    assert "has no map p2, p3, p5" in capsys.readouterr().err

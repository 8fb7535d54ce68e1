"""The cost of the rows of Figure 1: built as for training, timed in turns, a step on all scales, the output file."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.reporting.costs import Costs
from tests.command_line import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    """The script as a module; what importing it changes in this process is undone."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    torch.set_num_threads(1)
    yield importlib.import_module("figure1_cost")
    for name in ("figure1_cost", "compare"):
        sys.modules.pop(name, None)
    torch.set_num_threads(threads)


def test_rows_are_those_of_figure_1_at_the_presets_scale(script: ModuleType):
    assert script.ROWS == ("a_image_pyramid", "b_single_map", "c_hierarchy", "c_ssd", "d_fpn")
    for row in script.ROWS:
        design = script.build(row, "mini")
        assert design.image_size == (160, 160)
        assert design.batch == 8
        assert design.stage.detector.image_scales == ((0.5, 1.0, 2.0) if row == "a_image_pyramid" else (1.0,))
    assert design.stage.detector.pyramid.out_channels == 32
    assert design.stage.detector.rpn.loc_weight == 2.0


def test_the_papers_scale_needs_no_weights(script: ModuleType, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("download"))
    design = script.build("d_fpn", "paper")
    # 800 px on the shorter side, 4:3
    assert (design.image_size, design.batch, design.size_divisor) == ((800, 1067), 2, 32)
    assert design.stage.detector.backbone.strides["c5"] == 32
    assert design.stage.detector.pyramid.out_channels == 256


def test_noise_is_padded_and_repeats_and_objects_lie_in_it(script: ModuleType):
    images = script.noise(2, (40, 60), 32)
    assert images.pixels.shape == (2, 3, 64, 64)
    assert images.sizes.tolist() == [[40, 60], [40, 60]]
    assert not images.pixels[:, :, 40:].any()
    assert not images.pixels[:, :, :, 60:].any()
    assert not torch.equal(images.pixels[0], images.pixels[1])
    assert torch.equal(images.pixels, script.noise(2, (40, 60), 32).pixels)
    boxes = script.objects((40, 60)).boxes
    assert len(boxes) == 7
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([60, 40, 60, 40])).all()


def test_a_step_on_all_scales_sums_the_gradients_of_each(script: ModuleType):
    stage = script.build("a_image_pyramid", "mini").stage
    images = script.noise(2, (64, 64), 32)
    script.train_step(stage, images)
    together = {name: parameter.grad.clone() for name, parameter in stage.named_parameters()}
    stage.zero_grad()
    for scale in (0.5, 1.0, 2.0):
        stage.detector.image_scales = (scale,)
        script.train_step(stage, images)  # gradients add up
    for name, parameter in stage.named_parameters():
        assert torch.allclose(parameter.grad, together[name], rtol=1e-3, atol=1e-6), name
    stage.zero_grad()
    stage.detector.image_scales = (1.0,)
    script.train_step(stage, images)
    assert any(not torch.allclose(p.grad, together[name], rtol=0.1) for name, p in stage.named_parameters())


def test_rows_take_turns_and_the_median_counts(script: ModuleType, monkeypatch):
    now, seen = [0.0], []
    # the first turn of each warms up
    takes = {"a": iter([9.0, 1.0, 3.0, 8.0]), "b": iter([8.0, 2.0, 6.0, 4.0])}
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def work(stage, image):
        seen.append((stage.name, image))
        now[0] += next(takes[stage.name])

    stages = {name: SimpleNamespace(name=name, device=torch.device("cpu")) for name in takes}
    assert script.seconds_per_image(work, stages, ["x"], rounds=3) == {"a": 3, "b": 4}
    assert seen == [("a", "x"), ("b", "x")] * 4


def test_the_file_is_what_the_reports_read(script: ModuleType, tmp_path, monkeypatch, capsys):
    asked = []

    def memory(row, preset, work, images, size):
        asked.append((row, preset, work, images, size))
        return 10.5 if work == "test" else 99.5

    monkeypatch.setattr(script, "memory_mib", memory)
    output = tmp_path / "mini" / "figure1_cost.json"
    assert script.main(["--rounds", "1", "--size", "32", "48", "--batch", "3", "--output", str(output)]) == 0
    costs = Costs.load(output)
    assert tuple(costs.rows) == script.ROWS
    assert (costs.image_size, costs.batch) == ((32, 48), 3)
    assert asked[:2] == [
        ("a_image_pyramid", "mini", "test", 1, (32, 48)),
        ("a_image_pyramid", "mini", "train", 3, (32, 48)),
    ]
    for row, cost in costs.rows.items():
        assert (cost.test_memory_mib, cost.train_step_memory_mib) == (10.5, 99.5)
        assert min(cost.network_seconds_per_image, cost.seconds_per_image) > 0
        assert (cost.train_step_memory_note is not None) == (row == "a_image_pyramid")
    # (a) is the model of (b), on 0.25 + 1 + 4 times as many pixels
    assert costs.rows["a_image_pyramid"].parameters == costs.rows["b_single_map"].parameters
    assert json.loads(output.read_text())["schema"] == 1
    assert f"written: {output}" in capsys.readouterr().out


def test_what_cannot_be_measured_writes_nothing(script: ModuleType, tmp_path, monkeypatch, capsys):
    output = tmp_path / "figure1_cost.json"
    assert script.main(["--preset", "nope", "--output", str(output)]) == 2
    message = capsys.readouterr().err
    assert "presets/nope.yaml" in message
    assert "mini" in message
    with pytest.raises(SystemExit):
        script.main(["--rounds", "0", "--output", str(output)])
    assert "--rounds is 0" in capsys.readouterr().err

    def out_of_memory(*args):
        raise InputError("the process that measures ended with -9")

    monkeypatch.setattr(script, "memory_mib", out_of_memory)
    assert script.main(["--output", str(output)]) == 2
    assert "ended with -9" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # every measurement is a process that imports everything
def test_memory_is_that_of_the_work_alone(script: ModuleType):
    one, eight = (script.memory_mib("b_single_map", "mini", "train", count, (160, 160)) for count in (1, 8))
    assert 0 < one < eight / 2  # about 17 and 53 to 59 MiB: some of it does not grow with the images
    pyramid = script.memory_mib("a_image_pyramid", "mini", "train", 8, (160, 160))
    # 0.25 + 1 + 4 = 5.25 times the pixels; what does not grow with them is counted once in each
    assert 3 * eight < pyramid < 6 * eight
    with pytest.raises(InputError, match="process that measures ended"):
        script.memory_mib("nope", "mini", "train", 1, (160, 160))

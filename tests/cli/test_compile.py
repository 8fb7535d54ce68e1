"""``--model.compile``: which commands compile the weights as constants, and that results stay the same."""

from __future__ import annotations

import shutil

import pytest

from fpn_lightning.models.detector import Detector
from tests.command_line import read_metrics


def test_only_fit_compiles_weights_that_change(cli, arguments, run, monkeypatch):
    constant: list[bool] = []
    monkeypatch.setattr(Detector, "compile_maps", lambda self, constant_weights: constant.append(constant_weights))
    cli("fit", *arguments)
    assert constant == []
    cli("fit", *arguments, "--model.compile", "true", "--experiment.overwrite", "true")
    assert constant[0] is False
    constant.clear()
    cli("validate", "--config", str(run / "config.yaml"), "--ckpt_path", "last")
    assert constant == [True]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_the_metrics_of_an_eager_one(cli, arguments, run):
    metrics = []
    for value in ("false", "true"):
        cli("fit", *arguments, "--model.compile", value, "--experiment.overwrite", "true")
        metrics.append(read_metrics(run / "metrics.json"))
    assert metrics[0].keys() == metrics[1].keys()
    assert all(metrics[1][name] == pytest.approx(value, abs=0.02) for name, value in metrics[0].items())

"""Made-up records whose means and spreads can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fpn_lightning.runs.record import Data, Eval, Experiment, Record, Train


def _make_record(
    cell: str = "table1/c_fpn", seed: int = 0, preset: str = "mini", steps: int = 1500, **changes: Any
) -> Record:
    table, _, row = cell.partition("/")
    record = Record(
        experiment=Experiment(table=table, row=row, preset=preset, seed=seed),
        status="finished",
        metrics={"AR100": 0.5, "AR1k": 0.6},
        area_thresholds=(85.4, 768.6),
        data=Data(name="synthetic", split="val", fingerprint="f00d", num_images=500),
        train=Train(steps=steps, total_batch=8, num_images=5000, seconds_per_step=0.2),
        eval=Eval(seconds_per_image=0.05),
        peak_memory_mib=900.0,
        parameters=1_234_567,
        hardware="2 CPU cores",
        versions={"torch": "2.14.1"},
        commit="914c163",
        config_sha256="0" * 64,
    )
    return replace(record, **changes)


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return _make_record


@pytest.fixture
def make_full_scale_record() -> Callable[..., Record]:
    """A record made with the paper's data, schedule and trunk."""

    def make(cell: str, steps: int, trunk: str = "resnet50", **changes: Any) -> Record:
        data = Data(name="coco", split="val2017", fingerprint="c0c0", num_images=5000)
        defaults: dict[str, Any] = {"data": data, "train": Train(steps=steps, total_batch=16, lr=0.02), "trunk": trunk}
        return _make_record(cell, preset="8gpu", **(defaults | changes))

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[Record]]:
    """Records of several rows: ``make_rows(c_fpn={"AR100": (0.50, 0.52)})`` is one row, one metric, seeds 0 and 1."""

    def make(table: str = "table1", **rows: dict[str, tuple[float, ...]]) -> list[Record]:
        return [
            _make_record(f"{table}/{row}", seed, metrics={key: values[seed] for key, values in metrics.items()})
            for row, metrics in rows.items()
            for seed in range(len(next(iter(metrics.values()))))
        ]

    return make

"""Made-up records whose means and spreads can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fpn_lightning.runs.record import Data, Record, Train
from tests.records import a_record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return a_record


@pytest.fixture
def make_full_scale_record() -> Callable[..., Record]:
    """A record made with the paper's data, schedule and backbone."""

    def make(cell: str, steps: int, backbone: str = "resnet50", **changes: Any) -> Record:
        data = Data(name="coco", split="val2017", fingerprint="c0c0", num_images=5000)
        defaults: dict[str, Any] = {
            "data": data,
            "train": Train(steps=steps, total_batch=16, lr=0.02),
            "backbone": backbone,
        }
        return a_record(cell, preset="8gpu", **(defaults | changes))

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[Record]]:
    """Records of several rows: ``make_rows(c_fpn={"AR100": (0.50, 0.52)})`` is one row, one metric, seeds 0 and 1."""

    def make(table: str = "table1", **rows: dict[str, tuple[float, ...]]) -> list[Record]:
        return [
            a_record(f"{table}/{row}", seed, metrics={key: values[seed] for key, values in metrics.items()})
            for row, metrics in rows.items()
            for seed in range(len(next(iter(metrics.values()))))
        ]

    return make

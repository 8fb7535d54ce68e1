"""A made-up record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fpn_lightning.runs.record import Data, Eval, Experiment, Record, Train


def a_record(
    cell: str = "table1/c_fpn", seed: int = 0, preset: str = "mini", steps: int = 1500, **changes: Any
) -> Record:
    """A finished run of ``cell``; ``changes`` are fields of the record."""
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

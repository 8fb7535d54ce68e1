"""Rows whose runs were made under different conditions are not averaged, and every page names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.paper import all_tables, paper_tables
from fpn_lightning.reporting import tuning
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.page import summaries, write
from fpn_lightning.reporting.summary import summarise
from fpn_lightning.runs.record import Data, Record, Train

MakeRecord = Callable[..., Record]
CHANGES = {
    "data.name": {"data": Data(name="coco", split="val", fingerprint="f00d", num_images=500)},
    "data.split": {"data": Data(name="synthetic", split="tune", fingerprint="f00d", num_images=500)},
    "data.fingerprint": {"data": Data(name="synthetic", split="val", fingerprint="beef", num_images=500)},
    "data.num_images": {"data": Data(name="synthetic", split="val", fingerprint="f00d", num_images=50)},
    "train.num_images": {"train": Train(steps=1500, total_batch=8, num_images=50)},
    "train.steps": {"train": Train(steps=300, total_batch=8, num_images=5000)},
    "train.total_batch": {"train": Train(steps=1500, total_batch=16, num_images=5000)},
    "area_thresholds": {"area_thresholds": (1024.0, 9216.0)},
    "config_sha256": {"config_sha256": "1" * 64},
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_differs_is_named_and_nothing_else(key: str, make_record: MakeRecord) -> None:
    good = make_record("table1/d_bottom_up")
    kept, (mixed,) = set_apart([make_record(seed=2), make_record(seed=0), make_record(seed=1, **CHANGES[key]), good])
    assert kept == [good]
    assert (mixed.table, mixed.row) == ("table1", "c_fpn")
    assert mixed.warning.count(" is ") == 1
    assert f": {key} is " in mixed.warning
    assert "(seeds 0, 2)" in mixed.warning
    assert "(seed 1)" in mixed.warning
    assert "records/mini/table1/c_fpn/seed1.json" in mixed.warning


def test_digests_are_compared_between_records_of_the_newer_schema_only(make_record: MakeRecord) -> None:
    old = [make_record(seed=seed, schema=1, config_sha256=f"{seed}" * 64) for seed in (0, 1)]
    new = [make_record(seed=seed, config_sha256="a" * 64) for seed in (2, 3)]
    assert set_apart(old + new) == (old + new, [])
    assert set_apart([*old, *new, replace(new[0], config_sha256="b" * 64)])[0] == []


def test_a_row_that_stands_in_for_another_is_mixed_there_too(make_record: MakeRecord) -> None:
    records = [make_record("table2/c_fpn"), make_record("table2/c_fpn", seed=1, steps=3)]
    records.append(make_record("table3/a_conv4", metrics={"AP": 0.3}))
    summary = summarise("table3", "mini", paper_tables(), records)
    assert [row.id for row in summary.mixed] == ["c_fpn"]
    assert summary.warnings == [set_apart(records)[1][0].warning]
    assert summary.records == records[2:]


def test_rows_that_differ_from_one_another_keep_their_numbers(make_record: MakeRecord) -> None:
    records = [make_record(seed=0), make_record(seed=1), make_record("table1/d_bottom_up", steps=300)]
    summary = summarise("table1", "mini", paper_tables(), records)
    assert summary.mixed == []
    assert len(summary.records) == 3
    assert "the number of training steps differs" in summary.warnings[0]


@pytest.mark.parametrize("others", [True, False])
def test_every_page_names_the_rows_and_shows_none_of_their_numbers(
    others: bool, tmp_path: Path, make_record: MakeRecord
) -> None:
    def of(cell: str, *values: float) -> list[Record]:
        table, _, row = cell.rpartition("/")
        records = [make_record(seed=seed, steps=3 + seed, metrics={"AR100": v}) for seed, v in enumerate(values)]
        return [replace(r, experiment=replace(r.experiment, table=table, row=row)) for r in records]

    mixed = ("table1/c_fpn", "backbones/x/c_fpn", "tuning/table1/lr0.002/c_fpn", "deep_c2/c_fpn", "figure1/c_ssd")
    good = ("table1/a_conv4", "backbones/y/c_fpn", "backbones/y/a_conv4", "tuning/table1/lr0.006/a_conv4")
    records = [record for cell in mixed for record in of(cell, 0.777, 0.777)]
    records += [record for cell in good for record in of(cell, 0.6) if others]
    for summary in summaries("mini", all_tables(tmp_path), records, tmp_path / "records"):
        write(summary, tmp_path)
    tuning.write("mini", records, tmp_path)
    for cell in mixed:
        text = (tmp_path / f"{cell.split('/')[0]}.md").read_text(encoding="utf-8")
        assert f"The runs of {cell} are not averaged" in text
        assert "77.7" not in text
        assert ("60.0" in text) == (others and cell != "deep_c2/c_fpn")

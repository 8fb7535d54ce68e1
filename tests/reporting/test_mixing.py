"""Rows whose runs were made under different conditions are not averaged, and every page names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.paper import all_tables, paper_tables
from fpn_lightning.reporting import tuning
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.page import summaries, write
from fpn_lightning.reporting.summary import summarise
from tests.records import a_record
from tests.reporting.builders import nested

BASE = a_record()
CHANGES = {
    **{f"data.{key}": {"data": replace(BASE.data, **{key: "other"})} for key in ("name", "split", "fingerprint")},
    "data.num_images": {"data": replace(BASE.data, num_images=50)},
    **{f"train.{key}": {"train": replace(BASE.train, **{key: 3})} for key in ("num_images", "steps", "total_batch")},
    "area_thresholds": {"area_thresholds": (1024.0, 9216.0)},
    "config_sha256": {"config_sha256": "1" * 64},
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_differs_is_named_and_nothing_else(key: str) -> None:
    good = a_record("table1/d_bottom_up")
    kept, mixed = set_apart([a_record(seed=2), a_record(seed=0), a_record(seed=1, **CHANGES[key]), good])
    assert kept == [good]
    assert list(mixed) == ["table1/c_fpn"]
    warning = mixed["table1/c_fpn"]
    assert warning.count(" is ") == 1
    for part in (f": {key} is ", "(seeds 0, 2)", "(seed 1)", "records/mini/table1/c_fpn/seed1.json"):
        assert part in warning


def test_digests_are_compared_between_records_of_the_newer_schema_only() -> None:
    old = [a_record(seed=seed, schema=1, config_sha256=f"{seed}" * 64) for seed in (0, 1)]
    new = [a_record(seed=seed, config_sha256="a" * 64) for seed in (2, 3)]
    assert set_apart(old + new) == (old + new, {})
    assert set_apart([*old, *new, replace(new[0], config_sha256="b" * 64)])[0] == []


def test_a_row_that_stands_in_for_another_is_mixed_there_too() -> None:
    records = [a_record("table2/c_fpn"), a_record("table2/c_fpn", seed=1, steps=3)]
    records.append(a_record("table3/a_conv4", metrics={"AP": 0.3}))
    summary = summarise("table3", "mini", paper_tables(), records)
    assert [row.id for row in summary.mixed] == ["c_fpn"]
    assert summary.warnings == list(set_apart(records)[1].values())
    assert summary.records == records[2:]


@pytest.mark.parametrize("others", [True, False])
def test_every_page_names_the_rows_and_shows_none_of_their_numbers(others: bool, tmp_path: Path) -> None:
    mixed = ("table1/c_fpn", "backbones/x/c_fpn", "tuning/table1/lr0.002/c_fpn", "deep_c2/c_fpn", "figure1/c_ssd")
    good = ("table1/a_conv4", "backbones/y/c_fpn", "backbones/y/a_conv4", "tuning/table1/lr0.006/a_conv4")
    records = [
        replace(record, train=replace(record.train, steps=3 + record.experiment.seed))
        for cell in mixed
        for record in nested(cell, 0.777, 0.777)
    ]
    records += [record for cell in good for record in nested(cell, 0.6) if others]
    for summary in summaries("mini", all_tables(tmp_path), records, tmp_path / "records"):
        write(summary, tmp_path)
    tuning.write("mini", records, tmp_path)
    for cell in mixed:
        text = (tmp_path / f"{cell.split('/')[0]}.md").read_text(encoding="utf-8")
        assert f"The runs of {cell} are not averaged" in text
        assert "77.7" not in text
        assert ("60.0" in text) == (others and cell != "deep_c2/c_fpn")

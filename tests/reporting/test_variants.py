"""Rows run again on another trunk: differences by hand, and when there is nothing to compare."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.summary import summarise
from fpn_lightning.reporting.variants import sections
from fpn_lightning.runs.record import Train

SHALLOW = {"c_fpn": {"AR100": (0.50, 0.52)}, "d_bottom_up": {"AR100": (0.40, 0.43)}, "f_finest": {"AR100": (0.3, 0.3)}}
DEEP = {"c_fpn": {"AR100": (0.50, 0.50)}, "d_bottom_up": {"AR100": (0.51, 0.51)}}


def found(records, name="table1"):
    return sections(summarise(name, "mini", paper_tables(), records), records)


def test_both_trunks_side_by_side(make_rows):
    (section,) = found(make_rows(**SHALLOW) + make_rows("deep_c2", **DEEP))
    assert section.grid.title == "Shallow against deep C2"
    assert section.grid.header == ["trunk", "row", "seeds", "AR100", "AR100_s", "AR100_m", "AR100_l"]
    # Shallow: 50 - 40 and 52 - 43, so 9.5 ± sqrt(0.5). Deep: -1 twice. (f) was not run on the other trunk.
    assert [[*line[:4]] for line in section.grid.rows] == [
        ["shallow C2", "(c) FPN", "2", "51.0 ± 1.4"],
        ["shallow C2", "(d) bottom-up pyramid", "2", "41.5 ± 2.1"],
        ["shallow C2", "(c) less (d)", "2", "+9.5 ± 0.7"],
        ["deep C2", "(c) FPN", "2", "50.0 ± 0.0"],
        ["deep C2", "(d) bottom-up pyramid", "2", "51.0 ± 0.0"],
        ["deep C2", "(c) less (d)", "2", "-1.0 ± 0.0"],
    ]
    assert section.after == [
        "With the shallow C2 (c) is above (d) in AR100 (+9.5).",
        "With the deep C2 (c) is below (d) in AR100 (-1.0).",
    ]


def test_conditions_that_differ_are_called_out(make_rows):
    deep = [replace(record, train=Train(steps=700, total_batch=8)) for record in make_rows("deep_c2", **DEEP)]
    (section,) = found(make_rows(**SHALLOW) + deep)
    assert section.after[0].startswith("Warning: shallow C2 and deep C2 differ in data, split, steps or batch")


def test_one_seed_is_not_judged(make_rows):
    rows = {row: {"AR100": metrics["AR100"][:1]} for row, metrics in DEEP.items()}
    (section,) = found(make_rows(**SHALLOW) + make_rows("deep_c2", **rows))
    assert section.after[1] == "With the deep C2 (c) is not judged against (d), for want of seeds, in AR100 (-1.0)."


@pytest.mark.parametrize("missing", ["c_fpn", "d_bottom_up"])
def test_nothing_without_the_reference_and_another_row(missing, make_rows):
    deep = {row: metrics for row, metrics in DEEP.items() if row != missing}
    assert found(make_rows(**SHALLOW) + make_rows("deep_c2", **deep)) == []


def test_the_variants_of_one_table_are_not_shown_with_another(make_rows):
    records = make_rows("table2", **SHALLOW) + make_rows("deep_c2", **DEEP)
    assert found(records, "table2") == []

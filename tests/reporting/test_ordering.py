"""The paper's order beside ours, on three rows whose differences a person can work out."""

from __future__ import annotations

import pytest

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.ordering import our_size, outcomes, pairs, paper_size, ranks
from fpn_lightning.reporting.summary import summarise

# The paper's AR100: (c) 44.0, (f) 38.4, (d) 37.4.
THREE = {
    "c_fpn": {"AR100": (0.50, 0.52)},
    "d_bottom_up": {"AR100": (0.40, 0.43)},
    "f_finest": {"AR100": (0.30, 0.31)},
}
KEYS = ("AR1k_s", "AR1k_m", "AR1k_l")


def table1(records):
    return summarise("table1", "mini", paper_tables(), records)


def row(summary, name):
    return next(row for row in summary.rows if row.id == name)


def test_pairs_hold_the_papers_difference_beside_ours(make_rows):
    found = {(pair.first.id, pair.second.id): pair for pair in pairs(table1(make_rows(**THREE)))}
    assert list(found) == [("c_fpn", "d_bottom_up"), ("c_fpn", "f_finest"), ("d_bottom_up", "f_finest")]
    assert [pair.paper for pair in found.values()] == pytest.approx([6.6, 5.6, -1.0])
    # Seed by seed: 50 - 40 and 52 - 43; 50 - 30 and 52 - 31; 40 - 30 and 43 - 31.
    assert [pair.ours.values for pair in found.values()] == [
        pytest.approx((10, 9)),
        pytest.approx((20, 21)),
        pytest.approx((10, 12)),
    ]
    assert [pair.agrees for pair in found.values()] == [True, True, False]


def test_outcomes_part_what_agrees_from_what_does_not(make_rows):
    rows = dict(THREE)
    rows["e_no_lateral"] = {"AR100": (0.41, 0.42)}  # -1 and 1 to (d): not told apart
    rows["a_conv4"] = {"AR100": (0.2,)}  # one seed: four pairs that nobody can judge
    agree, reverse, not_told, unjudged = outcomes(pairs(table1(make_rows(**rows))))
    names = [[(pair.first.id[0], pair.second.id[0]) for pair in group] for group in (agree, reverse, not_told)]
    assert names == [[("c", "d"), ("c", "e"), ("c", "f")], [("d", "f"), ("e", "f")], [("d", "e")]]
    assert {pair.first.id for pair in unjudged} == {"a_conv4"}
    assert len(unjudged) == 4


def test_a_column_the_paper_lacks_is_held_against_the_main_one(make_rows):
    rows = {"c_fpn": {"AR10": (0.2, 0.2)}, "d_bottom_up": {"AR10": (0.1, 0.1)}}
    (pair,) = pairs(table1(make_rows(**rows)))
    assert (pair.column.key, pair.paper) == ("AR10", pytest.approx(44.0 - 37.4))


def test_rows_without_numbers_of_the_paper_are_in_no_pair(make_rows):
    assert pairs(table1(make_rows(c_fpn={"AR100": (0.5,)}, c_unshared_heads={"AR100": (0.6,)}))) == []


def test_ranks_among_the_rows_run(make_rows):
    summary = table1(make_rows(**THREE))
    assert ranks(summary, row(summary, "f_finest")) == ("2nd", "3rd")
    assert ranks(summary, row(summary, "c_fpn")) == ("1st", "1st")
    assert ranks(summary, row(summary, "a_conv4")) is None  # not run


def test_the_size_of_the_papers_largest_lead(make_rows):
    summary = table1(make_rows(**THREE))
    # (c) less (d) in the paper: 14.4 small, 3.5 medium, -1.8 large.
    assert paper_size(summary, row(summary, "d_bottom_up"), KEYS) == "small objects"
    assert paper_size(summary, row(summary, "c_unshared_heads"), KEYS) is None


@pytest.mark.parametrize(
    ("small", "medium", "large", "expected"),
    [
        ((0.4, 0.4), (0.1, 0.1), (0.2, 0.2), "small objects"),
        ((0.2, 0.2), (0.1, 0.1), (0.2, 0.21), "large or small objects"),  # large less small: 0 and 1 point
        ((0.1, 0.3), (0.2, 0.1), (0.2, 0.2), "no size in particular"),
        ((0.4,), (0.1,), (0.2,), None),  # no spread to judge by
    ],
)
def test_the_size_of_our_largest_lead(small, medium, large, expected, make_rows):
    leads = dict(zip(KEYS, (small, medium, large), strict=True))
    zero = {key: tuple(0.0 for _ in values) for key, values in leads.items()}
    summary = table1(make_rows(c_fpn=leads, d_bottom_up=zero))
    assert our_size(summary, row(summary, "d_bottom_up"), KEYS) == expected

"""Tables read out in sentences."""

from __future__ import annotations

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.reading import listed, read
from fpn_lightning.reporting.summary import summarise

# As in test_ordering.py: (c) above (d) and (f) as in the paper, (d) above (f) by 10 and 12 points, there 1 below.
THREE = {
    "c_fpn": {"AR100": (0.50, 0.52)},
    "d_bottom_up": {"AR100": (0.40, 0.43)},
    "f_finest": {"AR100": (0.30, 0.31)},
}


def reading(records):
    return read(summarise("table1", "mini", paper_tables(), records))


def test_agreement_and_reversal_are_told_from_the_numbers(make_rows):
    found = reading(make_rows(**THREE))
    rule, counts = found.opening
    assert "larger than 2 times its sample standard deviation" in rule
    assert "told apart in 22 % of cases with 2 seeds" in rule  # pairs.chance(2)
    assert counts == (
        "Comparisons of two rows, over 1 column: 3. As in the paper: 2; the other way round: 1; not told apart: 0. "
        "Of those the other way round, 1 rests on a difference of 1 point or less in the paper, which prints no spread."
    )
    # 10 and 12: mean 11, spread sqrt(2).
    assert found.columns == [
        "AR100: 2 of 3 pairs as in the paper. The other way round: (d) above (f) by 11.0 ± 1.4 (paper -1.0)."
    ]
    assert found.rows == [
        "(d) against (c): in the paper below in AR100; here below in AR100.",
        "(f) against (c): in the paper below in AR100; here below in AR100.",
    ]


def test_the_row_in_most_reversed_pairs_is_named_first(make_rows):
    rows = {name: {"AR100": (value, value)} for name, value in (("c_fpn", 0.3), ("d_bottom_up", 0.4))}
    rows["f_finest"] = {"AR100": (0.1, 0.1)}
    # Ours (d) 40, (c) 30, (f) 10; the paper's (c) 44.0, (f) 38.4, (d) 37.4: (d) is too high, twice.
    moved = reading(make_rows(**rows)).opening[2]
    assert moved == (
        "Which rows moved: (d) is in the 2 pairs that are the other way round (AR100: 3rd in the paper, 1st here)."
    )


def test_a_row_that_did_not_move_is_not_named(make_rows):
    # Ours (c) 40, (d) 30, (f) 20, (a) 10; the paper's (c), (f), (d), (a): a single pair, (d) and (f).
    ours = {"c_fpn": 0.4, "d_bottom_up": 0.3, "f_finest": 0.2, "a_conv4": 0.1}
    rows = {name: {"AR100": (value, value)} for name, value in ours.items()}
    found = reading(make_rows(**rows)).opening
    assert "the other way round: 1;" in found[1]
    assert not any("moved" in text for text in found)
    # By AR100 all as in the paper; by AR1k and AR1k_s (a) is above (c).
    rows["d_bottom_up"], rows["f_finest"] = rows["f_finest"], rows["d_bottom_up"]
    rows["a_conv4"] |= {"AR1k": (0.5, 0.5), "AR1k_s": (0.5, 0.5)}
    rows["c_fpn"] |= {"AR1k": (0.4, 0.4), "AR1k_s": (0.4, 0.4)}
    found = reading(make_rows(**rows)).opening
    assert "the other way round: 2;" in found[1]
    assert not any("moved" in text for text in found)


def test_what_the_seeds_leave_open_is_said(make_rows):
    rows = {"c_fpn": {"AR100": (0.5, 0.5)}, "d_bottom_up": {"AR100": (0.49, 0.51)}, "a_conv4": {"AR100": (0.2,)}}
    found = reading(make_rows(**rows))
    assert "not told apart: 1; not judged for want of seeds: 2." in found.opening[1]
    assert found.opening[2].startswith("There is no spread for (a), run with one seed")
    # 1 and -1: mean 0, spread sqrt(2).
    assert found.columns == [
        "AR100: 0 of 3 pairs as in the paper. Not told apart: (c) less (d) 0.0 ± 1.4 (paper +6.6)."
    ]
    assert found.rows == [
        "(a) against (c): in the paper below in AR100; here not judged in AR100.",
        "(d) against (c): in the paper below in AR100; here not told apart in AR100.",
    ]


def test_size_of_the_largest_lead_and_every_column(make_rows):
    parts = {"AR1k_s": (0.5, 0.5), "AR1k_m": (0.5, 0.5), "AR1k_l": (0.5, 0.5)}
    lower = {"AR1k_s": (0.1, 0.1), "AR1k_m": (0.4, 0.4), "AR1k_l": (0.4, 0.4)}
    found = reading(make_rows(c_fpn=parts, d_bottom_up=lower))
    assert found.opening[-1] == (
        "On which objects (c) is furthest ahead, or least behind. AR1k, in the paper: small objects against (d); "
        "here: small objects against (d)."
    )
    assert found.rows == [
        "(d) against (c): in the paper above in AR1k_l, below in AR1k_s and AR1k_m; here below in every column."
    ]


def test_columns_the_paper_lacks_are_said_to_be_held_against_another(make_rows):
    found = reading(make_rows(c_fpn={"AR10": (0.2, 0.2)}, d_bottom_up={"AR10": (0.1, 0.1)}))
    assert found.opening[1].endswith("AR10, which the paper does not have, is held against its AR100.")


def test_nothing_is_read_out_of_one_row_and_little_of_one_seed(make_rows):
    assert reading(make_rows(c_fpn={"AR100": (0.5, 0.5)})) is None
    found = reading(make_rows(c_fpn={"AR100": (0.5,)}, d_bottom_up={"AR100": (0.4,)}))
    assert found.opening == ["No two rows were run with two seeds in common, so nothing is said of their order."]
    assert found.columns == found.rows == []


def test_listed():
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]

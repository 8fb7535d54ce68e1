"""The grid that compares the order of our rows with the paper's, on rows whose differences a person can check."""

from __future__ import annotations

from fpn_lightning.paper import paper_tables
from fpn_lightning.reporting.agreement import agreement
from fpn_lightning.reporting.summary import summarise
from tests.reporting.builders import ROWS, rows


def of(records, table="table1"):
    return agreement(summarise(table, "mini", paper_tables(), records))


def by_pair(grid):
    return {" ".join(line[:2]): line[2:] for line in grid.rows}


def test_signs_of_all_pairs_and_the_differences_behind_them():
    found = of(rows(**ROWS))
    assert found.signs.header == ["row", "against", "AR100", "AR1k", "AR1k_s", "AR1k_m", "AR1k_l"]
    # The paper's AR100: (c) 44.0, (f) 38.4, (d) 37.4, (e) 34.5.
    # (d) minus (e): -1 and 1, within noise. (d) and (e) lead (f) by 10 or more here and trail it in the paper.
    assert {pair: line[0] for pair, line in by_pair(found.signs).items()} == {
        **{"(c) (d)": "✓", "(c) (e)": "✓", "(c) (f)": "✓"},
        **{"(d) (e)": "·", "(d) (f)": "✗", "(e) (f)": "✗"},
    }
    assert found.counts == (
        "Of 6 comparisons of two rows in one column, 3 give the paper's order. The others give the reversed order (2) "
        "or a difference within noise (1). Not compared: 24."
    )
    # 50 - 40 and 52 - 43: 9.5 ± 0.7. 40 - 30 and 43 - 31: 11 ± 1.4.
    assert by_pair(found.differences)["(c) (d)"][0] == "+9.5 ± 0.7 (+6.6)"
    assert by_pair(found.differences)["(d) (f)"][:2] == ["+11.0 ± 1.4 (-1.0)", "n/a (-1.8)"]


def test_a_pair_without_two_common_seeds_is_not_compared():
    found = of(rows(c_fpn={"AR100": (0.5, 0.5)}, a_conv4={"AR100": (0.2,)}))
    assert by_pair(found.signs)["(a) (c)"][0] == "n/a"
    assert by_pair(found.differences)["(a) (c)"][0] == "-30.0 (-7.9)"
    assert found.counts == "No pair of rows has two seeds in common, so the order is not compared."


def test_a_recall_that_the_paper_does_not_print_is_compared_with_its_main_column():
    # AR100_s is shown, and the paper has nothing to compare it with.
    found = of(rows(c_fpn={"AR10": (0.2, 0.2), "AR100_s": (0.2, 0.2)}, d_bottom_up={"AR10": (0.1, 0.1)}))
    assert found.signs.header[2:4] == ["AR10", "AR100"]
    assert by_pair(found.signs)["(c) (d)"][0] == "✓"
    assert by_pair(found.differences)["(c) (d)"][0] == "+10.0 ± 0.0 (+6.6)"
    assert found.counts.endswith("The paper does not print AR10; its AR100 is used instead.")


def test_rows_without_a_letter_are_named():
    found = of(rows("table6", mlp5={"segm_AR1k": (0.4, 0.4)}, mlp7={"segm_AR1k": (0.3, 0.3)}), "table6")
    assert found.signs.rows[0][:3] == ["FPN, single MLP [5×5]", "FPN, single MLP [7×7]", "✗"]
    assert found.signs.header[2] == "AR"


def test_rows_without_numbers_of_the_paper_are_in_no_pair():
    assert of(rows(c_fpn={"AR100": (0.5,)}, c_unshared_heads={"AR100": (0.6,)})) is None
    assert of(rows(c_fpn={"AR100": (0.5, 0.5)})) is None

"""Differences between rows, seed by seed, on numbers that a person can check by hand."""

from __future__ import annotations

import math

import pytest

from fpn_lightning.reporting.seeds import Sample, difference
from tests.records import a_record


def test_rows_are_compared_within_a_seed():
    left = [a_record("table1/c_fpn", seed, metrics={"AR100": value}) for seed, value in ((0, 0.5), (1, 0.6), (3, 1))]
    right = [a_record("table1/d_bottom_up", seed, metrics={"AR100": 0.4, "AR10": None}) for seed in (2, 1, 0)]
    # Seeds 0 and 1 are common: 10 and 20 points, mean 15, deviations -5 and 5, so sqrt(50 / 1).
    found = difference(left, right, "AR100")
    assert found.values == pytest.approx((10, 20))
    assert found.mean == pytest.approx(15)
    assert found.std == pytest.approx(math.sqrt(50))
    assert difference(left, right, "AR10").values == ()
    assert difference(left, right, "AP").mean is None


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ((), None),
        ((3.0,), None),
        ((2.0, 3.0, 4.0), 1),  # mean 3, spread 1
        ((-2.0, -3.0, -4.0), -1),
        ((1.0, 2.0, 3.0), 0),  # mean 2, spread 1: not more than twice
        ((-1.0, 0.5, 0.5), 0),
        ((0.0, 0.0), 0),
        ((0.5, 0.5), 1),
    ],
)
def test_a_difference_is_more_than_noise_beyond_two_standard_deviations(values, sign):
    assert Sample(values).sign == sign

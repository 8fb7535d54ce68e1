"""Differences between rows, seed by seed, on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fpn_lightning.reporting.keys import proposal_count, size_keys
from fpn_lightning.reporting.pairs import FACTOR, Difference, chance, difference


def test_rows_are_compared_within_a_seed(make_record):
    left = [make_record("table1/c_fpn", seed, metrics={"AR100": value}) for seed, value in ((0, 0.5), (1, 0.6), (3, 1))]
    right = [make_record("table1/d_bottom_up", seed, metrics={"AR100": 0.4, "AR10": None}) for seed in (2, 1, 0)]
    # Seeds 0 and 1 are common: 10 and 20 points, mean 15, deviations -5 and 5, so sqrt(50 / 1).
    found = difference(left, right, "AR100")
    assert found.values == pytest.approx((10, 20))
    assert found.mean == pytest.approx(15)
    assert found.std == pytest.approx(math.sqrt(50))
    assert (-found).mean == pytest.approx(-15)
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
def test_what_counts(values, sign):
    assert Difference(values).sign == sign


def test_with_five_seeds_or_fewer_a_difference_that_counts_has_one_sign():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 4, 5):
        for values in rng.normal(1, 0.7, (2000, seeds)):
            if Difference(tuple(values)).sign:
                assert len(set(np.sign(values))) == 1


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6])
def test_chance_is_how_often_noise_counts(seeds):
    draws = np.random.default_rng(seeds).normal(size=(200_000, seeds))
    counted = np.abs(draws.mean(axis=1)) > FACTOR * draws.std(axis=1, ddof=1)
    assert chance(seeds) == pytest.approx(counted.mean(), abs=0.003)


@pytest.mark.parametrize(
    ("key", "parts", "count"),
    [
        ("AR100", ("AR100_s", "AR100_m", "AR100_l"), 100),
        ("AR1k", ("AR1k_s", "AR1k_m", "AR1k_l"), 1000),
        ("segm_AR1k", ("segm_AR1k_s", "segm_AR1k_m", "segm_AR1k_l"), 1000),
        ("AP", ("APs", "APm", "APl"), None),
        ("test_dev_AP", ("test_dev_APs", "test_dev_APm", "test_dev_APl"), None),
        ("AP50", None, None),
        ("AR1k_s", None, None),
        ("loss", None, None),
    ],
)
def test_keys(key, parts, count):
    assert size_keys(key) == parts
    assert proposal_count(key) == count

"""Names of metrics, built and taken apart."""

from __future__ import annotations

import pytest

from fpn_lightning.metric_names import AREA_SUFFIXES, is_fraction, proposal_count, recall_key, size_keys


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
def test_object_sizes_and_number_of_proposals_of_a_name(key, parts, count):
    assert size_keys(key) == parts
    assert proposal_count(key) == count


@pytest.mark.parametrize("limit", [1, 10, 100, 300, 1000, 1500, 2000])
def test_a_name_of_recall_is_read_as_it_is_written(limit):
    assert proposal_count(recall_key(limit)) == limit
    assert size_keys(recall_key(limit)) == tuple(recall_key(limit, suffix) for suffix in AREA_SUFFIXES[1:])
    assert all(is_fraction(recall_key(limit, suffix)) for suffix in AREA_SUFFIXES)


def test_ap_and_ar_are_fractions_and_losses_are_not():
    assert all(map(is_fraction, ["AP", "AP50", "APs", "segm_AR1k_s", "test_dev_APl"]))
    assert not any(map(is_fraction, ["loss_rpn_cls", "AP_of", "seconds"]))

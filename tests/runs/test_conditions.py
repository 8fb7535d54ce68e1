from __future__ import annotations

from collections.abc import Callable

from fpn_lightning.runs.conditions import differing, why_not_replace
from fpn_lightning.runs.record import Record, Train

MakeRecord = Callable[..., Record]


def test_a_value_that_a_record_does_not_hold_does_not_differ(make_record: MakeRecord) -> None:
    without = make_record(train=Train(steps=1500, total_batch=8))
    assert differing([make_record(), without]) == {}


def test_what_differs_is_grouped_by_value(make_record: MakeRecord) -> None:
    first, second, third = make_record(seed=0), make_record(seed=1, steps=300), make_record(seed=2)
    assert differing([first, second, third]) == {"train.steps": {"1500": [first, third], "300": [second]}}


def test_every_reason_against_replacing_is_given(make_record: MakeRecord) -> None:
    new = make_record(steps=300, config_sha256="a" * 64)
    assert why_not_replace(make_record(), new) == [
        "train.steps is 300 and was 1500",
        "config_sha256 is aaaaaaaaaaaa and was 000000000000",
    ]
    assert why_not_replace(make_record(), make_record(hardware="1 GPU")) == []

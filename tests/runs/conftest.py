from __future__ import annotations

from collections.abc import Callable

import pytest

from fpn_lightning.runs.record import Record
from tests.records import a_record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return a_record

"""Statistics over seeds: mean and spread of a row, difference of two rows, and whether a difference is more than noise.

Rows are compared seed by seed, because runs with the same seed share the order of the data and the initial weights of
common layers. A difference is more than noise if the absolute value of its mean is larger than twice its sample
standard deviation. This rule is strict, because each row has only a few seeds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fpn_lightning.metric_names import percent
from fpn_lightning.runs.record import Metrics, Record

FACTOR = 2
"""A difference is more than noise if its absolute mean is larger than ``FACTOR`` sample standard deviations."""


@dataclass(frozen=True)
class Sample:
    """A metric in percent, or a difference in points, with one value for each seed."""

    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over seeds; ``None`` if there is no value, as for an object size without ground truth."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); ``None`` with fewer than two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def sign(self) -> int | None:
        """Sign of a difference: 1 or -1 if it is more than noise, else 0; ``None`` with fewer than two seeds."""
        if self.mean is None or self.std is None:
            return None
        if abs(self.mean) <= FACTOR * self.std:
            return 0
        return 1 if self.mean > 0 else -1


def sample(blocks: list[Metrics], key: str) -> Sample | None:
    """The metric ``key`` of every seed; ``None`` if no seed has it. ``blocks`` has a dictionary of metrics per seed."""
    found = [block[key] for block in blocks if key in block]
    return Sample(tuple(percent(value) for value in found if value is not None)) if found else None


def difference(left: list[Record], right: list[Record], key: str) -> Sample:
    """``left`` minus ``right`` in the metric ``key``, in points, for each seed that has a value in both."""
    of_left, of_right = _by_seed(left, key), _by_seed(right, key)
    return Sample(tuple(of_left[seed] - of_right[seed] for seed in sorted(of_left.keys() & of_right.keys())))


def _by_seed(records: list[Record], key: str) -> dict[int, float]:
    """The metric ``key`` in percent, by seed."""
    values = {record.experiment.seed: record.metrics.get(key) for record in records}
    return {seed: percent(value) for seed, value in values.items() if value is not None}

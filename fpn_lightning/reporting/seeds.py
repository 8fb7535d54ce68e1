"""Statistics over seeds: mean and spread of a row, the difference of two rows, and whether it is more than noise.

Runs with the same seed share the data order and, layer by layer, the first weights, so rows are compared within a seed.
Few seeds need a strict rule: a difference is more than noise if its mean is larger than twice its sample standard
deviation.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fpn_lightning.metric_names import percent
from fpn_lightning.runs.record import Metrics, Record

FACTOR = 2
"""Number of sample standard deviations that a mean difference has to exceed."""


@dataclass(frozen=True)
class Sample:
    """A metric in percent, or a difference in points, with one value for each seed."""

    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """``None`` without a value: an object size without ground truth, or rows without a common seed."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); ``None`` below two seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def sign(self) -> int | None:
        """1 or -1 for a difference that is more than noise, 0 for one within noise, ``None`` below two seeds."""
        if self.mean is None or self.std is None:
            return None
        if abs(self.mean) <= FACTOR * self.std:
            return 0
        return 1 if self.mean > 0 else -1


def sample(blocks: list[Metrics], key: str) -> Sample | None:
    """A metric over the records of several seeds; ``None`` if no record has it."""
    found = [block[key] for block in blocks if key in block]
    return Sample(tuple(percent(value) for value in found if value is not None)) if found else None


def difference(left: list[Record], right: list[Record], key: str) -> Sample:
    """``left`` minus ``right``, for the seeds that both have a value of the metric ``key`` for."""
    of_left, of_right = _by_seed(left, key), _by_seed(right, key)
    return Sample(tuple(of_left[seed] - of_right[seed] for seed in sorted(of_left.keys() & of_right.keys())))


def _by_seed(records: list[Record], key: str) -> dict[int, float]:
    """The metric in percent by seed."""
    values = {record.experiment.seed: record.metrics.get(key) for record in records}
    return {seed: percent(value) for seed, value in values.items() if value is not None}

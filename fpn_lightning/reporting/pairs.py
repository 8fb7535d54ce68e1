"""Two rows held against each other seed by seed, and when their difference counts.

Seeds of one number share their data order and, layer by layer, their first weights, so rows are compared within a seed.
With the few seeds that one can afford, the rule has to be strict: a difference counts when its mean is larger than
twice its sample standard deviation.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from fpn_lightning.runs.record import Record

FACTOR = 2
"""How many sample standard deviations a mean difference has to exceed."""


@dataclass(frozen=True)
class Difference:
    """One row's metric less another's, in points; ``values`` holds one number for each seed that both have."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """``None`` without a common seed."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); ``None`` below two common seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def sign(self) -> int | None:
        """1 or -1 for a difference that counts, 0 for one that the seeds do not tell from none.

        ``None`` below two common seeds, when there is no spread to judge by.
        """
        if self.mean is None or self.std is None:
            return None
        if abs(self.mean) <= FACTOR * self.std:
            return 0
        return 1 if self.mean > 0 else -1

    def __neg__(self) -> Difference:
        return Difference(tuple(-value for value in self.values))


def difference(left: list[Record], right: list[Record], key: str) -> Difference:
    """``left`` less ``right``, over the seeds that both ran with and measured ``key`` with."""
    of_left, of_right = _by_seed(left, key), _by_seed(right, key)
    return Difference(tuple(of_left[seed] - of_right[seed] for seed in sorted(of_left.keys() & of_right.keys())))


def _by_seed(records: list[Record], key: str) -> dict[int, float]:
    """The metric in percent by seed."""
    values = {record.experiment.seed: record.metrics.get(key) for record in records}
    return {seed: 100 * value for seed, value in values.items() if value is not None}


def chance(seeds: int) -> float:
    """How often a difference would count if there were none: both tails of Student's t beyond ``FACTOR`` √``seeds``.

    Args:
        seeds: number of common seeds, at least 2. The differences are taken to be normal.

    Returns:
        A probability: 0.22 for two seeds, 0.07 for three, 0.01 for five.
    """
    freedom = seeds - 1
    angle = math.atan(FACTOR * math.sqrt(seeds) / math.sqrt(freedom))
    # The integral of the density of t between -t and t in closed form, for odd and for even degrees of freedom.
    term, total = (math.cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
    for power in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * power / (power + 1)
    within = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + within) if freedom % 2 else within)

"""Random sampling of the anchors, RoIs or cells for a loss (Faster R-CNN §3.1.3, Fast R-CNN §2.3, FPN App. A).

The sample depends only on a seed for each image and on the indices of the candidates, not on a global random state.
Therefore the sample is the same on every device, for every split of a batch over processes, and after a run is resumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIX_1 = -0x40A7B892E31B1A47  # 0xbf58476d1ce4e5b9 as a signed 64-bit integer
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94d049bb133111eb
_GOLDEN = -0x61C8864680B583EB  # 0x9e3779b97f4a7c15


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right and fill with zeros; torch's ``>>`` alone fills with copies of the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64 (Steele et al., OOPSLA 2014) to int64; arithmetic wraps modulo 2^64."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def random_keys(seeds: Tensor, count: int) -> Tensor:
    """Compute ``count`` pseudo-random numbers for each seed.

    Args:
        seeds: int64 ``(N,)``.
        count: numbers per seed.

    Returns:
        int64 ``(N, count)``, non-negative; row n depends on ``seeds[n]`` only.
    """
    index = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64)
    keys = _mix(_mix(seeds)[:, None] + index * _GOLDEN)
    return keys & 0x7FFFFFFFFFFFFFFF


def image_seeds(seed: int, step: int, image_ids: Tensor) -> Tensor:
    """Compute one seed, int64 ``(N,)``, for each image from the run's seed, the optimiser step and the image id.

    Args:
        seed: the run's seed.
        step: the optimiser step of the batch.
        image_ids: int64 ``(N,)``.
    """
    # Leave `run` on the CPU: torch adds a scalar from the CPU to a GPU tensor without a copy to the GPU. Such a copy
    # would block.
    run = _mix(torch.tensor([seed, step], dtype=torch.int64) + _GOLDEN)
    return _mix(_mix(image_ids + run[0]) + run[1])


class Sampler:
    """Draws positive and negative candidates at random, without replacement.

    Args:
        batch_size_per_image: largest number of candidates that are drawn for one image.
        positive_fraction: largest fraction of ``batch_size_per_image`` that are positive candidates. If an image has
            too few positive candidates, more negative candidates are drawn.
    """

    def __init__(self, batch_size_per_image: int = 256, positive_fraction: float = 0.5) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    def __call__(self, match_labels: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the candidates of every image of a batch.

        Args:
            match_labels: ``(N, B)``: 1 for positive, 0 for negative and -1 for ignored candidates.
            seeds: int64 ``(N,)``; see :func:`image_seeds`.

        Returns:
            Boolean masks ``positive`` and ``negative`` of the drawn candidates, each ``(N, B)``.
        """
        keys = random_keys(seeds, match_labels.shape[1])
        limit = torch.full_like(seeds, int(self.batch_size_per_image * self.positive_fraction))
        positive = self._draw(match_labels == 1, keys, limit)
        negative = self._draw(match_labels == 0, keys, self.batch_size_per_image - positive.sum(dim=1))
        return positive, negative

    def _draw(self, candidates: Tensor, keys: Tensor, counts: Tensor) -> Tensor:
        """Select the ``counts[n]`` candidates with the smallest random keys in each image n: bool ``(N, B)``."""
        k = min(self.batch_size_per_image, candidates.shape[1])
        never = torch.iinfo(torch.int64).max
        drawn_keys, drawn = keys.masked_fill(~candidates, never).topk(k, dim=1, largest=False, sorted=True)
        rank = torch.arange(k, device=keys.device)
        wanted = (rank < counts[:, None]) & (drawn_keys != never)
        return torch.zeros_like(candidates).scatter_(1, drawn, wanted)

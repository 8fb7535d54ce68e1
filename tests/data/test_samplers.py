from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpn_lightning.data.samplers import (
    EvaluationBatchSampler,
    TrainingBatchSampler,
    TrainingLoader,
    accumulation_steps,
    epoch_order,
)
from fpn_lightning.errors import InputError


def orientations(count: int, every: int = 3) -> np.ndarray:
    return np.arange(count) % every == 0


class TestEpochOrder:
    @given(st.lists(st.booleans(), min_size=1, max_size=80), st.integers(0, 5), st.integers(0, 5))
    def test_every_image_once_in_pairs_of_one_kind(self, portrait: list[bool], seed: int, epoch: int) -> None:
        kinds = np.array(portrait)
        order = epoch_order(kinds, seed, epoch)
        assert sorted(order.tolist()) == list(range(len(kinds)))
        start = epoch * len(kinds) % 2
        ends = order[start : start + (len(kinds) - start) // 2 * 2].reshape(-1, 2)
        mixed = (kinds[ends[:, 0]] != kinds[ends[:, 1]]).sum()
        assert mixed == (len(kinds) % 2 == 0 and kinds.sum() % 2 == 1)

    def test_function_of_seed_and_epoch(self) -> None:
        kinds = orientations(50)
        orders = {(seed, epoch): epoch_order(kinds, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)}
        assert epoch_order(kinds, 1, 1).tolist() == orders[1, 1]
        assert len({tuple(order) for order in orders.values()}) == 4

    def test_shuffles_evenly(self) -> None:
        kinds = orientations(10)
        first = Counter(int(epoch_order(kinds, 0, epoch)[0]) for epoch in range(2000))
        # 200 each; four standard deviations are 54.
        assert all(abs(first[image] - 200) < 54 for image in range(10))


def stream(world_size: int, batch_size: int, steps: int, total: int = 16, count: int = 59, **options: Any) -> list[Any]:
    """Items of the first global batches, put together from all processes and accumulation steps."""
    accumulation = accumulation_steps(total, batch_size, world_size)
    ranks = [
        list(
            islice(
                TrainingBatchSampler(orientations(count), total, batch_size, rank, world_size, **options),
                steps * accumulation,
            )
        )
        for rank in range(world_size)
    ]
    return [
        [item for a in range(accumulation) for rank in ranks for item in rank[step * accumulation + a]]
        for step in range(steps)
    ]


class TestTrainingBatches:
    @pytest.mark.parametrize(("world_size", "batch_size"), [(2, 8), (1, 4), (8, 2), (4, 1), (16, 1), (2, 2)])
    def test_same_global_batches_however_they_are_cut(self, world_size: int, batch_size: int) -> None:
        assert stream(world_size, batch_size, 12) == stream(1, 16, 12)

    def test_covers_the_images_epoch_by_epoch(self) -> None:
        items = [item for batch in stream(1, 16, 59) for item in batch]
        assert Counter(items) == Counter((image, epoch) for epoch in range(16) for image in range(59))
        epochs = [epoch for _, epoch in items]
        assert epochs[:16] == [0] * 16
        assert sorted(set(epochs)) == list(range(16))

    def test_fewer_images_than_a_batch(self) -> None:
        (batch,) = stream(1, 16, 1, count=3)
        assert Counter(image for image, _ in batch) == {0: 6, 1: 5, 2: 5}
        assert len(set(batch)) == 16

    def test_pieces_are_of_one_orientation(self) -> None:
        """With an even number of each kind pairs are never mixed, and larger pieces at most once a global batch."""
        kinds = orientations(60, every=3)
        for size, most in ((2, 0), (4, 1), (8, 1)):
            batches = iter(TrainingBatchSampler(kinds, 16, size))
            for _ in range(100):
                pieces = [kinds[[image for image, _ in piece]] for piece in islice(batches, 16 // size)]
                assert sum(len(set(piece.tolist())) > 1 for piece in pieces) <= most

    def test_start(self) -> None:
        sampler = TrainingBatchSampler(orientations(59), 16, 2, rank=1, world_size=2)
        expected = list(islice(sampler, 30))
        sampler.start = 11
        assert list(islice(sampler, 19)) == expected[11:]

    def test_seeds_differ(self) -> None:
        assert stream(1, 16, 2, seed=1) == stream(1, 16, 2, seed=1) != stream(1, 16, 2, seed=2)


class TestAccumulationSteps:
    @pytest.mark.parametrize(("world_size", "batch_size", "expected"), [(1, 16, 1), (8, 2, 1), (1, 2, 8), (4, 2, 2)])
    def test_by_hand(self, world_size: int, batch_size: int, expected: int) -> None:
        assert accumulation_steps(16, batch_size, world_size) == expected

    def test_sizes_that_do_not_divide_are_rejected(self) -> None:
        with pytest.raises(InputError, match=r"data\.batch_size_per_device 3 .* use one of 1, 2, 4, 8$"):
            accumulation_steps(16, 3, 2)
        with pytest.raises(InputError, match=r"data\.total_batch_size 16 cannot be divided equally among 3 processes"):
            accumulation_steps(16, 2, 3)


class TestEvaluationBatches:
    @given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 6))
    def test_every_image_once(self, count: int, batch_size: int, world_size: int) -> None:
        samplers = [EvaluationBatchSampler(count, batch_size, rank, world_size) for rank in range(world_size)]
        batches = [list(sampler) for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [len(batch) for batch in batches]
        seen = [[position for batch in rank for position, _ in batch] for rank in batches]
        assert sorted(position for rank in seen for position in rank) == list(range(count))
        assert all(rank == sorted(rank) for rank in seen)
        assert max(map(len, seen)) - min(map(len, seen)) <= 1

    def test_by_hand(self) -> None:
        assert list(EvaluationBatchSampler(5, 2, rank=0, world_size=2)) == [[(0, 0), (2, 0)], [(4, 0)]]
        assert list(EvaluationBatchSampler(5, 2, rank=1, world_size=2)) == [[(1, 0), (3, 0)]]
        assert list(EvaluationBatchSampler(1, 2, rank=1, world_size=2)) == []


class Items:
    """A data set that gives back what it is asked for."""

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:
        return item


def as_list(items: list[Any]) -> list[Any]:
    return items


def loader(num_batches: int, workers: int = 0, batch_size: int = 2, world_size: int = 1) -> TrainingLoader:
    sampler = TrainingBatchSampler(orientations(11), 4, batch_size, 0, world_size)
    return TrainingLoader(Items(), sampler, num_batches, collate_fn=as_list, num_workers=workers)


class TestTrainingLoader:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_state_counts_what_was_taken(self, workers: int) -> None:
        """Workers are ahead of the trainer; going on from any point gives what would have come."""
        whole = list(loader(12))
        assert len(whole) == 12
        for taken in (0, 1, 5):
            first = loader(12, workers)
            head = list(islice(first, taken))
            state = first.state_dict()
            assert state == {"images": 2 * taken}
            second = loader(12, workers)
            second.load_state_dict(state)
            assert head + list(second) == whole

    @pytest.mark.parametrize("workers", [0, 1])
    def test_passes_follow_each_other(self, workers: int) -> None:
        passes = loader(4, workers)
        assert len(passes) == 4
        assert [batch for _ in range(3) for batch in passes] == list(loader(12))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_pass_broken_off_goes_on(self, workers: int) -> None:
        broken = loader(8, workers)
        head = list(islice(broken, 3))
        assert head + list(broken) == list(loader(8))

    def test_other_number_of_processes(self) -> None:
        first = loader(12, batch_size=1, world_size=1)
        list(islice(first, 6))  # a global batch and a half
        second = loader(12, batch_size=2, world_size=2)
        second.load_state_dict(first.state_dict())
        expected = TrainingBatchSampler(orientations(11), 4, 2, 0, 2)
        expected.start = 1  # the half one is taken again
        assert next(iter(second)) == next(iter(expected))

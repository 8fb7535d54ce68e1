"""Choose the images of each batch as a function of (seed, step) that does not depend on the number of processes.

Training reads one endless stream of images, in which every epoch is a new shuffle of all images. The global batch of an
optimiser step is the next ``total_batch_size`` images of the stream. Processes and accumulation steps divide a global
batch into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from fpn_lightning.errors import InputError

# First part of the spawn key of NumPy's SeedSequence for the shuffles. transforms.py uses the same seed with another
# first part, so its random numbers differ.
RANDOM_DOMAIN = 0
Item = tuple[int, int]  # (position of an image in the dataset, epoch)


def epoch_order(portrait: NDArray[np.bool_], seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle the images of one epoch so that they form consecutive pairs of images with equal orientation.

    A landscape and a portrait image in one batch would both be padded to a large square. The published implementations
    (two images per GPU) pair images of equal orientation for this reason. At most one image of each orientation has no
    partner and comes last in the epoch. If the epoch starts at an odd position (counted from 0) of the stream of
    all epochs, its single image without a partner comes first instead. Each pair therefore starts at an even position
    of the stream, so that global batches with an even number of images do not split a pair.

    Args:
        portrait: bool ``(N,)``, whether each image is higher than wide.
        seed: non-negative.
        epoch: number of the epoch, from 0.

    Returns:
        int64 ``(N,)``, a permutation of 0..N−1.
    """
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(RANDOM_DOMAIN, epoch)))
    shuffled = random.permutation(len(portrait))
    kinds = [shuffled[~portrait[shuffled]], shuffled[portrait[shuffled]]]
    pairs = np.concatenate([kind[: len(kind) // 2 * 2].reshape(-1, 2) for kind in kinds])
    paired = pairs[random.permutation(len(pairs))].reshape(-1)
    single = np.concatenate([kind[len(kind) // 2 * 2 :] for kind in kinds])
    inside_a_pair = epoch * len(portrait) % 2 == 1
    return np.concatenate((single, paired) if inside_a_pair else (paired, single))


def accumulation_steps(
    total_batch_size: int, batch_size_per_device: int, world_size: int, configured: int | None = None
) -> int:
    """Return the number of accumulation steps: total batch size / (images per micro-batch × processes).

    Args:
        total_batch_size: images per optimiser step.
        batch_size_per_device: images per micro-batch of a process.
        world_size: number of processes.
        configured: the trainer's ``accumulate_grad_batches``; None if it is not known.

    Raises:
        InputError: ``total_batch_size`` is not a multiple of images per micro-batch × processes, or ``configured``
            is another number than the accumulation steps that this function computes.
    """
    share, rest = divmod(total_batch_size, world_size)
    if rest:
        raise InputError(
            f"data.total_batch_size {total_batch_size} cannot be divided equally among {world_size} processes; "
            "use a number of devices that divides data.total_batch_size"
        )
    if share % batch_size_per_device:
        valid = ", ".join(str(size) for size in range(1, share + 1) if share % size == 0)
        raise InputError(
            f"data.batch_size_per_device {batch_size_per_device} does not divide {share}, the number of images per "
            f"process (data.total_batch_size {total_batch_size} / {world_size} processes); use one of {valid}"
        )
    steps = share // batch_size_per_device
    if configured not in (None, steps):
        raise InputError(
            f"trainer.accumulate_grad_batches is {configured}; set it to {steps}: data.total_batch_size "
            f"{total_batch_size} / ({world_size} processes x data.batch_size_per_device {batch_size_per_device})"
        )
    return steps


class TrainingBatchSampler(Sampler[list[Item]]):
    """Yields the micro-batches of one process without end. A micro-batch is a list of pairs (position, epoch).

    A global batch is divided into micro-batches of equal size. Process ``rank`` trains on micro-batch
    ``a * world_size + rank`` in accumulation step ``a``. In a global batch, landscape images come before portrait
    images, so that at most one micro-batch of a global batch mixes both orientations.

    Args:
        portrait: bool ``(N,)``, N >= 1, whether each image is higher than wide.
        total_batch_size: images per optimiser step, a multiple of ``batch_size * world_size``.
        batch_size: images per micro-batch.
        rank: rank of this process.
        world_size: number of processes.
        seed: non-negative.
    """

    def __init__(
        self,
        portrait: NDArray[np.bool_],
        total_batch_size: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.portrait = portrait
        self.total_batch_size = total_batch_size
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.accumulation = accumulation_steps(total_batch_size, batch_size, world_size)
        # Index of the first micro-batch that a new iterator yields, counted from the start of training.
        self.start = 0
        self._orders: dict[int, NDArray[np.int64]] = {}

    def global_batch(self, step: int) -> list[Item]:
        """Return (position in the dataset, epoch) of each image of optimiser step ``step``, landscape images first."""
        items = []
        for count in range(step * self.total_batch_size, (step + 1) * self.total_batch_size):
            epoch, within_epoch = divmod(count, len(self.portrait))
            items.append((int(self._order(epoch)[within_epoch]), epoch))
        return sorted(items, key=lambda item: bool(self.portrait[item[0]]))

    def __iter__(self) -> Iterator[list[Item]]:
        micro = self.start
        while True:
            step, accumulated = divmod(micro, self.accumulation)
            first = (accumulated * self.world_size + self.rank) * self.batch_size
            yield self.global_batch(step)[first : first + self.batch_size]
            micro += 1

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            if len(self._orders) > 2:
                self._orders.clear()
            self._orders[epoch] = epoch_order(self.portrait, self.seed, epoch)
        return self._orders[epoch]


class EvaluationBatchSampler(Sampler[list[Item]]):
    """Distributes the images over the processes: rank r gets the positions r, r + world size, ..., each once.

    Processes may get different numbers of batches, and some may get no batch.
    """

    def __init__(self, num_images: int, batch_size: int = 1, rank: int = 0, world_size: int = 1) -> None:
        self.positions = range(rank, num_images, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[list[Item]]:
        for first in range(0, len(self.positions), self.batch_size):
            yield [(position, 0) for position in self.positions[first : first + self.batch_size]]


class TrainingLoader(DataLoader[Any]):
    """A data loader for training that can be resumed: its state is the number of images trained on.

    Only batches that the trainer received are counted, not batches that workers have prepared. The state counts images
    instead of batches, so that a run can be resumed with another number of processes. A new iterator continues where
    the last one stopped. A pass ends when the number of batches since the start of training reaches a multiple of
    ``num_batches``.

    Args:
        dataset: dataset that is indexed by pairs (position, epoch).
        batch_sampler: yields the micro-batches of this process.
        num_batches: number of micro-batches in one pass, which is the loader's length. Without a length, Lightning
            would prefetch batches, and the state would count a prefetched batch as trained on.
        collate_fn, num_workers, worker_init_fn, pin_memory: as in :class:`torch.utils.data.DataLoader`. Worker
            processes are kept from one pass to the next.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_sampler: TrainingBatchSampler,
        num_batches: int,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            worker_init_fn=worker_init_fn,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )
        self.stream = batch_sampler
        self.num_batches = num_batches
        self.consumed = 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.stream.start = self.consumed
        remaining = self.num_batches - self.consumed % self.num_batches
        # The range comes first, so that zip stops when the range ends. If the batches were the first argument, zip
        # would load one more batch before it stops, and this batch would be lost.
        for _, batch in zip(range(remaining), super().__iter__(), strict=False):
            self.consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of images, over all processes, that training has taken from the stream."""
        return {"images": self.consumed * self.stream.batch_size * self.stream.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the stream after ``state["images"]`` images, rounded down to whole micro-batches per process."""
        self.consumed = state["images"] // (self.stream.batch_size * self.stream.world_size)

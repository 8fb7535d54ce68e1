"""Loaders of a process's share of a data set: an endless stream for training, every image once for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fpn_lightning.data.dataset import COCODataset, Collate, Sample, start_worker
from fpn_lightning.data.image_folder import ImageFolder, Skipped
from fpn_lightning.data.samplers import EvaluationBatchSampler, TrainingBatchSampler, TrainingLoader
from fpn_lightning.structures import Batch


def training_loader(
    dataset: Dataset[Any],
    sampler: TrainingBatchSampler,
    collate: Callable[[list[Any]], Any],
    num_batches: int,
    num_workers: int = 0,
    images_done: int = 0,
) -> TrainingLoader:
    """The training stream of a process, from the image on at which training has arrived.

    Args:
        dataset: takes (row, epoch).
        sampler: this process's share of the stream.
        collate: makes a batch of a list of its items.
        num_batches: micro-batches of one pass.
        num_workers: worker processes.
        images_done: how many images, over all processes, have been trained on.
    """
    loader = TrainingLoader(
        dataset,
        sampler,
        num_batches,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    # Lightning gives a loader its saved state only where it regards a pass as unfinished.
    loader.load_state_dict({"images": images_done})
    return loader


def evaluation_loader(
    dataset: COCODataset | ImageFolder,
    collate: Callable[[list[Any]], Any],
    batch_size: int = 1,
    process: tuple[int, int] = (0, 1),
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Batches of this process's images, in order.

    Args:
        dataset: takes (row, 0).
        collate: makes a batch of a list of its items.
        batch_size: images of one batch.
        process: rank and number of processes; process r takes rows r, r + number, ...
        num_workers: worker processes.
    """
    return DataLoader(
        dataset,
        batch_sampler=EvaluationBatchSampler(len(dataset), batch_size, *process),
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


@dataclass(frozen=True)
class SkippingCollate:
    """Collates what could be read: a batch (None where nothing could) and what was skipped."""

    collate: Collate

    def __call__(self, items: list[Sample | Skipped]) -> tuple[Batch | None, list[Skipped]]:
        """Samples and :class:`Skipped`, in any mixture."""
        samples = [item for item in items if isinstance(item, Sample)]
        skipped = [item for item in items if isinstance(item, Skipped)]
        return self.collate(samples) if samples else None, skipped


class PredictionLoader:
    """Yields the batches of a loader that collates with :class:`SkippingCollate`, and keeps what was skipped.

    It is no ``DataLoader``, so that Lightning leaves it as it is: for prediction it would build loaders anew.

    Attributes:
        skipped: images of this process that could not be read so far.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        for batch, skipped in self.loader:
            self.skipped += skipped
            if batch is not None:
                yield batch

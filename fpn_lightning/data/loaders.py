"""Data loaders of one process: an endless stream for training, and one pass over the images for evaluation."""

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
    """Build the training loader of one process. The loader starts after the images that were already trained on.

    Args:
        dataset: dataset that is indexed by pairs (position, epoch).
        sampler: yields the micro-batches of this process.
        collate: turns a list of samples into a batch.
        num_batches: number of micro-batches in one pass.
        num_workers: number of worker processes.
        images_done: number of images, over all processes, that were already trained on.
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
    # Lightning restores a loader's state only if it considers the epoch unfinished, so the state is set here.
    loader.load_state_dict({"images": images_done})
    return loader


def evaluation_loader(
    dataset: COCODataset | ImageFolder,
    collate: Callable[[list[Any]], Any],
    batch_size: int = 1,
    process: tuple[int, int] = (0, 1),
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Build the evaluation loader of one process. The loader loads each image of the process once, in order.

    Args:
        dataset: dataset that is indexed by pairs (position, epoch); the epoch is always 0.
        collate: turns a list of samples into a batch.
        batch_size: images per batch.
        process: rank and world size; rank r loads the positions r, r + world size, ...
        num_workers: number of worker processes.
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
    """Collate function that makes a batch of the readable images and lists the unreadable images."""

    collate: Collate

    def __call__(self, items: list[Sample | Skipped]) -> tuple[Batch | None, list[Skipped]]:
        """Return a batch of all samples in ``items`` (None if no image could be read) and a list of skipped images."""
        samples = [item for item in items if isinstance(item, Sample)]
        skipped = [item for item in items if isinstance(item, Skipped)]
        return self.collate(samples) if samples else None, skipped


class PredictionLoader:
    """Yields the batches of a loader that collates with :class:`SkippingCollate`, and collects the skipped images.

    The class does not derive from ``DataLoader``, because Lightning would replace a ``DataLoader`` by a new one.

    Attributes:
        skipped: images of this process that could not be read so far in the current pass.
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

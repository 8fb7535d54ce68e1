"""Data loaders of one process: a stream for training, and every image once for evaluation."""

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
    """Build the training loader of a process; the loader continues where training stopped.

    Args:
        dataset: addressed by (position, epoch).
        sampler: this process's part of the stream.
        collate: makes a batch of a list of samples.
        num_batches: micro-batches of one pass.
        num_workers: worker processes.
        images_done: number of images, over all processes, that have been trained on.
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
    # Lightning restores a loader's saved state only if it considers the pass unfinished.
    loader.load_state_dict({"images": images_done})
    return loader


def evaluation_loader(
    dataset: COCODataset | ImageFolder,
    collate: Callable[[list[Any]], Any],
    batch_size: int = 1,
    process: tuple[int, int] = (0, 1),
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Build the evaluation loader of a process: it loads the images of the process once, in order.

    Args:
        dataset: addressed by (position, 0).
        collate: makes a batch of a list of samples.
        batch_size: images of one batch.
        process: rank and number of processes; process r takes the positions r, r + number, ...
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
    """Collates the images that could be read (None if there are none) and lists the skipped ones."""

    collate: Collate

    def __call__(self, items: list[Sample | Skipped]) -> tuple[Batch | None, list[Skipped]]:
        """Make a batch of ``items``, which are samples and :class:`Skipped` in any order."""
        samples = [item for item in items if isinstance(item, Sample)]
        skipped = [item for item in items if isinstance(item, Skipped)]
        return self.collate(samples) if samples else None, skipped


class PredictionLoader:
    """Yields the batches of a loader that collates with :class:`SkippingCollate`, and collects the skipped images.

    It is not a ``DataLoader``, because Lightning rebuilds a ``DataLoader`` for prediction.

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

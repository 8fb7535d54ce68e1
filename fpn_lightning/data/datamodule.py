"""The LightningDataModule for COCO and for data sets in COCO's layout."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from fpn_lightning.data.checks import check_split
from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.coco.index import COCOIndex, split_paths
from fpn_lightning.data.coco.labels import Labels
from fpn_lightning.data.dataset import COCODataset, Collate, open_proposals
from fpn_lightning.data.image_folder import ImageFolder
from fpn_lightning.data.loaders import PredictionLoader, SkippingCollate, evaluation_loader, training_loader
from fpn_lightning.data.proposals.store import ProposalStore
from fpn_lightning.data.samplers import TrainingBatchSampler, TrainingLoader, accumulation_steps
from fpn_lightning.data.training_images import training_images
from fpn_lightning.data.transforms import ResizeAndFlip, SizeRounding
from fpn_lightning.errors import InputError

Role = Literal["train", "val", "test", "predict"]
ROLES: dict[str | None, tuple[Role, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
ROLES |= {"test": ("test",), "predict": ("predict",)}
POSITIVE = ["num_classes", "total_batch_size", "batch_size_per_device", "eval_batch_size"]
POSITIVE += ["max_train_images", "max_val_images", "train_proposals", "eval_proposals"]


class COCODataModule(pl.LightningDataModule):
    """Batches (:class:`fpn_lightning.structures.Batch`) of a data set in COCO's layout.

    The annotation file of a split is ``root/annotations/instances_<split>.json``. Its images are
    ``root/<split>/<file_name>``. The default values are the paper's (FPN §5.1, §5.2).

    Args:
        root: the data set's folder.
        train_split: split to train on.
        val_split: split to validate on.
        test_split: split to test on; it may have no annotations.
        num_classes: number of foreground classes: the number of categories in the annotation files, or of
            supercategories if ``labels`` is ``supercategory``.
        labels: classes to train and evaluate on: the annotation files' categories or supercategories (12 in COCO).
        total_batch_size: images per optimiser step, equal to processes × images per process × accumulation steps.
        batch_size_per_device: images per training micro-batch of one process.
        eval_batch_size: images per evaluation batch. With one image per batch, no image is padded to the size of
            another image.
        short_side: length of the shorter side after resizing, in pixels. If a list of lengths is given, training
            draws one of them per image and epoch, and evaluation uses the last one.
        max_side: largest length of the longer side after resizing, in pixels.
        size_rounding: rounding of resized sides: ``nearest`` (as in detectron2) or ``floor`` (as in torchvision).
        flip_probability: probability of a horizontal flip in training.
        random_crop: smallest fraction, in (0, 1], of an image's height and width that a random training crop keeps.
            The crop precedes resizing. Objects and proposals are clipped to the crop. None (as in the paper): no crop.
        size_divisor: heights and widths of batches are padded to a multiple of this number, which should be the
            largest stride of the backbone.
        min_box_size: smallest width and height of a training box, in network-input pixels. Smaller boxes are left out
            of training.
        load_masks: load the objects' masks, which are needed to train and evaluate mask proposals.
        skip_images_without_objects: leave images without a usable object out of training.
        num_workers: worker processes per loader.
        seed: seed of the order of the images (drawn per epoch) and of the augmentation (drawn per epoch and image id).
        max_train_images: train only on this number of images, those with the lowest ids; None: all images.
        max_val_images: validate only on this number of images, those with the lowest ids; None: all images.
        proposals: folder of fixed proposals, such as ``<run>/proposals``. Its subfolder with the name of a split is
            the proposal store of this split.
        train_proposals: train only on this number of fixed proposals per image, those with the highest objectness.
        eval_proposals: evaluate and predict only with this number of fixed proposals per image, those with the highest
            objectness.
        cache_images: keep every resized image in memory (0.4 MB per image of 320 × 448 px), so that each file is
            decoded only once. Requires a small data set, one ``short_side``, no ``random_crop`` and ``num_workers`` 0.
        predict_split: split that ``predict`` reads.
        predict_path: folder of images, or one image file. ``predict`` reads this path instead of ``predict_split``, and
            does not need ``root``.

    Attributes:
        dropped: number of objects left out of training, by reason (``inverted``, ``empty``, ``outside``, ``small``,
            ``crowd``), and number of images left out, by reason (``images_without_objects`` and, if
            ``max_train_images`` leaves out images, ``images_over_the_limit``). Empty before ``setup``.

    Raises:
        InputError: an option has a wrong value (the message names its ``data.`` key), or ``setup`` finds missing or
            wrong data.
    """

    def __init__(
        self,
        root: str,
        train_split: str = "train2017",
        val_split: str = "val2017",
        test_split: str | None = None,
        num_classes: int = 80,
        labels: Labels = "category",
        total_batch_size: int = 16,
        batch_size_per_device: int = 2,
        eval_batch_size: int = 1,
        short_side: int | list[int] = 800,
        max_side: int = 1333,
        size_rounding: SizeRounding = "nearest",
        flip_probability: float = 0.5,
        random_crop: float | None = None,
        size_divisor: int = 32,
        min_box_size: float = 1.0,
        load_masks: bool = False,
        skip_images_without_objects: bool = True,
        num_workers: int = 4,
        seed: int = 0,
        max_train_images: int | None = None,
        max_val_images: int | None = None,
        proposals: str | None = None,
        train_proposals: int = 2000,
        eval_proposals: int = 1000,
        cache_images: bool = False,
        predict_split: str | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        # Accept a loader without batches: if there are fewer images than processes, some processes get no image.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.root = root
        self.train_split = train_split
        self.val_split = val_split
        self.test_split = test_split
        self.predict_split = predict_split
        self.predict_path = predict_path
        self.proposals = proposals
        self.train_proposals = train_proposals
        self.eval_proposals = eval_proposals
        self.num_classes = num_classes
        self.labels: Labels = labels
        self.total_batch_size = total_batch_size
        self.batch_size_per_device = batch_size_per_device
        self.eval_batch_size = eval_batch_size
        self.load_masks = load_masks
        self.skip_images_without_objects = skip_images_without_objects
        self.num_workers = num_workers
        self.cache_images = cache_images
        self.seed = seed
        self.max_train_images = max_train_images
        self.max_val_images = max_val_images
        self.collate = Collate(size_divisor)
        short_sides = (short_side,) if isinstance(short_side, int) else tuple(short_side)
        self.transform = ResizeAndFlip(
            short_sides, max_side, size_rounding, flip_probability, min_box_size, seed, random_crop
        )
        self._first: COCOIndex | None = None
        self.dropped: dict[str, int] = {}
        self._datasets: dict[Role, COCODataset] = {}
        for key, least in [*((key, 1) for key in POSITIVE), ("num_workers", 0)]:
            if (value := getattr(self, key)) is not None and value < least:
                raise InputError(f"data.{key} is {value}; it has to be at least {least}")
        if cache_images and (num_workers > 0 or random_crop is not None or len(short_sides) > 1):
            raise InputError(
                "data.cache_images needs a single process and one fixed size per image: set data.num_workers to 0, "
                "data.random_crop to null and data.short_side to one number"
            )

    @property
    def categories(self) -> Categories | None:
        """Ids and names of the categories (or supercategories) of labels 0..K−1.

        None before ``setup``, or if no annotation file lists categories.
        """
        return self._first.categories if self._first else None

    def prepare_data(self) -> None:
        """Build the index of the annotations in one process per machine. Other processes memory-map the index file."""
        stage = str(self.trainer.state.fn.value) if self.trainer and self.trainer.state.fn else "fit"
        for role in ROLES.get(stage, ()):
            if split := self._splits[role]:
                with suppress(InputError):  # `setup` reports this error together with all other errors
                    COCOIndex.open(split_paths(self.root, split)[0])

    def setup(self, stage: str | None = None) -> None:
        """Open and check the splits that ``stage`` needs (None: all splits). Log what training leaves out.

        Raises:
            InputError: a split is missing or has a fault. The error lists all problems of all splits.
        """
        problems: list[str] = []
        for role in ROLES.get(stage, ()) if stage else ("train", "val", "test", "predict"):
            if (split := self._splits[role]) and role not in self._datasets:
                key = f"data.{role}_split"
                problems += check_split(self.root, split, key, self.load_masks, partial(self._dataset, role))
        if problems:
            self._datasets.clear()
            self._first = None
            raise InputError(*dict.fromkeys(problems))

    def train_dataloader(self) -> TrainingLoader:
        """Return a loader of this process's share of the training images, starting at the trainer's current step.

        One pass over the loader ends at optimiser step ``trainer.max_steps``. If ``max_steps`` is not set, one pass
        over the loader is one epoch, rounded up to whole optimiser steps.
        """
        dataset = self._dataset("train")
        rank, world_size = self._process()
        configured = self.trainer.accumulate_grad_batches if self.trainer else None
        accumulation = accumulation_steps(self.total_batch_size, self.batch_size_per_device, world_size, configured)
        sizes = dataset.index.sizes[dataset.places]
        sampler = TrainingBatchSampler(
            sizes[:, 0] > sizes[:, 1], self.total_batch_size, self.batch_size_per_device, rank, world_size, self.seed
        )
        steps = self.trainer.max_steps if self.trainer else -1
        steps = steps if steps > 0 else self.steps_per_epoch
        done = self.trainer.global_step if self.trainer else 0
        return training_loader(
            dataset, sampler, self.collate, steps * accumulation, self.num_workers, done * self.total_batch_size
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimiser steps per epoch, rounded up."""
        return -(-len(self._dataset("train")) // self.total_batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of this process's validation images. Each image is loaded by exactly one process."""
        return self._loader(self._dataset("val"), self.collate)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader of this process's test images. Each image is loaded by exactly one process."""
        return self._loader(self._dataset("test"), self.collate)

    def predict_dataloader(self) -> PredictionLoader:
        """Return a loader of this process's share of ``predict_path`` or ``predict_split``.

        Each image is loaded by exactly one process.
        """
        return PredictionLoader(self._loader(self.prediction_images, SkippingCollate(self.collate)))

    @cached_property
    def prediction_images(self) -> COCODataset | ImageFolder:
        """The images that ``predict`` reads."""
        if self.predict_path is not None:
            return ImageFolder(self.predict_path, self.transform)
        return self._dataset("predict")

    def accumulation_steps(self, world_size: int) -> int:
        """Return the number of micro-batches per process in an optimiser step.

        Raises:
            InputError: ``total_batch_size`` is not a multiple of ``world_size`` × ``batch_size_per_device``.
        """
        return accumulation_steps(self.total_batch_size, self.batch_size_per_device, world_size)

    def describe(self, split: str) -> dict[str, Any]:
        """Return the name, fingerprint and number of images of a split, which are stored with the results of a run.

        Args:
            split: ``train``, ``val``, ``test``, ``predict`` or the name of a split.

        Returns:
            ``name``: the annotation file's description, or else the name of the root folder; the name ends in "labels
            are supercategories" if ``labels`` is ``supercategory``. ``split``: name of the split. ``fingerprint``:
            sha256 of the annotation file. ``num_images``: number of images used.
        """
        role = next((role for role, name in self._splits.items() if split in (role, name)), None)
        if role is None:
            raise InputError(
                f"there is no split {split!r} under the config key data; the splits there are {self._splits}"
            )
        dataset = self._dataset(role)
        name = dataset.index.description or Path(self.root).resolve().name
        return {
            "name": name if self.labels == "category" else f"{name}; labels are supercategories",
            "split": self._splits[role],
            "fingerprint": dataset.index.fingerprint,
            "num_images": len(dataset),
        }

    def has_annotations(self, role: Role) -> bool:
        """Return whether a split has annotations to evaluate with. COCO's test sets have no annotations."""
        return self._dataset(role).index.has_annotations

    def proposal_store(self, role: Role) -> ProposalStore | None:
        """Return the store of a split's fixed proposals, or None if ``data.proposals`` is not set."""
        return self._dataset(role).proposals

    @property
    def _splits(self) -> dict[Role, str | None]:
        splits: dict[Role, str | None] = {"val": self.val_split, "test": self.test_split, "train": self.train_split}
        return splits | {"predict": self.predict_split}

    def _dataset(self, role: Role) -> COCODataset:
        split = self._splits[role]
        if split is None:
            raise InputError(f"data.{role}_split is not set; give the name of the split to use")
        if role not in self._datasets:
            self._datasets[role] = self._open(role, split)
        return self._datasets[role]

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: COCODataset | ImageFolder, collate: Collate | SkippingCollate) -> DataLoader[Any]:
        return evaluation_loader(dataset, collate, self.eval_batch_size, self._process(), self.num_workers)

    def _open(self, role: Role, split: str) -> COCODataset:
        annotation_file, images = split_paths(self.root, split)
        index = COCOIndex.open(annotation_file, self.labels)
        if len(index.categories):  # an annotation file that only lists images may have no categories
            self._first = self._first or index
            index.check_categories(self.num_classes, self._first)
        places = np.arange(len(index))
        if role == "train":
            places, self.dropped = training_images(
                index, self.transform, self.skip_images_without_objects, self.max_train_images
            )
        if role == "val":
            places = places[: self.max_val_images]
        max_proposals = self.train_proposals if role == "train" else self.eval_proposals
        store = open_proposals(self.proposals, split, index, places, max_proposals)
        training, cache = role == "train", self.cache_images
        return COCODataset(
            index, images, self.transform, places, training, self.load_masks, store, max_proposals, cache
        )

"""A dataset that makes network inputs from images and their objects, and a collate function that makes batches."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.images import read_image
from fpn_lightning.data.proposals.store import ProposalStore, StoredProposals
from fpn_lightning.data.transforms import ResizeAndFlip, augment, resize, usable_boxes
from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import GroundTruth
from fpn_lightning.structures import Batch, ImageBatch, Proposals, Targets


@dataclass
class Sample:
    """One network input.

    Attributes:
        pixels: uint8 ``(H, W, 3)`` RGB.
        geometry: crop, resizing and flip that turned the image file into ``pixels``.
        image_id: COCO image id.
        targets: the objects to train on; None if the split has no annotations.
        ground_truth: all objects of the image; None if the split has no annotations.
        proposals: proposals read from the dataset's proposal store on disk; None if the dataset has no such store.
    """

    pixels: NDArray[np.uint8]
    geometry: Geometry
    image_id: int
    targets: Targets | None = None
    ground_truth: GroundTruth | None = None
    proposals: Proposals | None = None


class COCODataset(Dataset[Sample]):
    """Images of one split with their objects. ``dataset[i, epoch]`` is image ``places[i]``, augmented for ``epoch``.

    Args:
        index: the split's annotations.
        image_folder: folder of the split's image files.
        transform: resizing and augmentation.
        places: int64 ``(N,)``, positions in ``index`` of the images that are used.
        training: True augments images, False only resizes images.
        load_masks: load the objects' masks.
        proposals: store of fixed proposals of these images.
        max_proposals: use at most this number of proposals per image, those with the highest objectness.
        cache_images: keep every resized image in memory, so that each file is decoded only once.
    """

    def __init__(
        self,
        index: COCOIndex,
        image_folder: Path,
        transform: ResizeAndFlip,
        places: NDArray[np.int64],
        training: bool = False,
        load_masks: bool = False,
        proposals: ProposalStore | None = None,
        max_proposals: int | None = None,
        cache_images: bool = False,
    ) -> None:
        self.index = index
        self.image_folder = image_folder
        self.transform = transform
        self.places = places
        self.training = training
        self.load_masks = load_masks
        self.proposals = proposals
        self.max_proposals = max_proposals
        self._resized: dict[int, NDArray[np.uint8]] | None = {} if cache_images else None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        position, epoch = item
        place = int(self.places[position])
        image_id = int(self.index.image_ids[place])
        height, width = self.index.sizes[place].tolist()
        if self.training:
            geometry = self.transform.training_geometry((height, width), image_id, epoch)
        else:
            geometry = self.transform.evaluation_geometry((height, width))
        sample = Sample(self._pixels(place, geometry), geometry, image_id)
        if self.index.has_annotations:
            sample.ground_truth = self._ground_truth(place)
            sample.targets = mapped_targets(sample.ground_truth, geometry, self.transform.min_box_size)
        if self.proposals is not None:
            sample.proposals = mapped_proposals(self.proposals.read(image_id, self.max_proposals), geometry)
        return sample

    def _pixels(self, place: int, geometry: Geometry) -> NDArray[np.uint8]:
        """Return the network input of the image at position ``place`` in the annotation index.

        Cached images are stored unflipped.
        """
        if self._resized is None:
            return (augment if self.training else resize)(self._stored_pixels(place), geometry)
        if place not in self._resized:
            self._resized[place] = resize(self._stored_pixels(place), replace(geometry, flipped=False))
        pixels = self._resized[place]
        return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flipped else pixels

    def _stored_pixels(self, place: int) -> NDArray[np.uint8]:
        height, width = self.index.sizes[place].tolist()
        path = self.image_folder / self.index.file_name(place)
        return read_image(path, size=(height, width), image_id=int(self.index.image_ids[place]))

    def file_name(self, image_id: int) -> str:
        """Return an image's file name, relative to the split's image folder; raise KeyError for an unknown id."""
        return self.index.file_name(self.index.row(image_id))

    def pixels_orig(self, image_id: int) -> NDArray[np.uint8]:
        """Read an image without resizing: uint8 ``(H, W, 3)`` RGB; raise InputError if the file cannot be read."""
        return read_image(self.image_folder / self.file_name(image_id), image_id=image_id)

    def _ground_truth(self, place: int) -> GroundTruth:
        objects = self.index.objects_of(place)
        return GroundTruth(
            image_id=int(self.index.image_ids[place]),
            boxes_xywh=objects.boxes_xywh,
            areas=objects.areas,
            is_crowd=objects.is_crowd,
            labels=objects.labels,
            annotation_ids=objects.annotation_ids,
            masks=self.index.masks_of(place) if self.load_masks else [],
        )


def open_proposals(
    root: str | None, split: str, index: COCOIndex, places: NDArray[np.int64], max_proposals: int
) -> ProposalStore | None:
    """Open ``root/<split>``, the store of a split's fixed proposals. Return None if ``root`` is None.

    Args:
        root: folder of the stores.
        split: name of the split.
        index: annotations of the split.
        places: int64, positions in ``index`` of the images that need proposals.
        max_proposals: number of proposals to use per image. A warning is logged if the store was written with fewer
            than ``max_proposals`` proposals per image.

    Raises:
        InputError: the store is missing or damaged, belongs to another split, or lacks an image.
    """
    if root is None:
        return None
    store = ProposalStore(Path(root) / split)
    store.check(split, index.fingerprint, index.image_ids[places])
    if store.header.post_nms_topk < max_proposals:
        rank_zero_warn(
            f"{store.folder} has at most {store.header.post_nms_topk} proposals per image, but data.train_proposals "
            f"or data.eval_proposals is {max_proposals}"
        )
    return store


def mapped_targets(ground_truth: GroundTruth, geometry: Geometry, min_box_size: float) -> Targets:
    """Map the boxes of an image's objects to the network input and keep the objects that can be trained on.

    Crowd regions and boxes that :func:`~fpn_lightning.data.transforms.usable_boxes` rejects are left out.
    """
    single = np.flatnonzero(~ground_truth.is_crowd)
    boxes, kept = usable_boxes(ground_truth.boxes_orig[single], geometry, min_box_size)
    used = single[kept]
    return Targets(
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(ground_truth.labels[used]),
        masks=[ground_truth.masks[i] for i in used] if ground_truth.masks else [],
    )


def mapped_proposals(stored: StoredProposals, geometry: Geometry) -> Proposals:
    """Map proposals from pixels of the image file to pixels of the network input, and clip them to the image.

    The order stays the same: descending objectness. Proposals with a width or height below 0.001 px after clipping
    are left out, because a box cannot be regressed from an empty proposal.
    """
    boxes, kept = usable_boxes(stored.boxes_orig.astype(np.float64), geometry, min_box_size=0)
    return Proposals(
        boxes=torch.from_numpy(boxes),
        objectness=torch.from_numpy(stored.objectness[kept]),
        levels=torch.from_numpy(stored.levels[kept].astype(np.int64)),
    )


@dataclass(frozen=True)
class Collate:
    """Pad images with 0 on the right and at the bottom to a common multiple of ``size_divisor``, and stack them."""

    size_divisor: int = 32

    def __call__(self, samples: list[Sample]) -> Batch:
        """Return a batch with pixels uint8 ``(N, 3, H, W)``.

        Each of the batch's lists ``targets``, ``ground_truths`` and ``proposals`` is empty if no sample has an entry
        for it.
        """
        sizes = torch.tensor([sample.geometry.size for sample in samples])
        height, width = (-(-side // self.size_divisor) * self.size_divisor for side in sizes.amax(dim=0).tolist())
        pixels = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
        for out, sample in zip(pixels, samples, strict=True):
            image = torch.from_numpy(sample.pixels).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
            out[:, : image.shape[1], : image.shape[2]] = image
        images = ImageBatch(
            pixels=pixels,
            sizes=sizes,
            image_ids=torch.tensor([sample.image_id for sample in samples]),
            geometries=[sample.geometry for sample in samples],
        )
        return Batch(
            images,
            targets=[sample.targets for sample in samples if sample.targets is not None],
            ground_truths=[sample.ground_truth for sample in samples if sample.ground_truth is not None],
            proposals=[sample.proposals for sample in samples if sample.proposals is not None],
        )


def start_worker(worker_id: int) -> None:
    """Prepare a worker process of a data loader: limit OpenCV to one thread and ignore Ctrl-C.

    More OpenCV threads would compete with the other workers. After Ctrl-C, the main process still needs its workers to
    finish the training step, and then stops them with SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)

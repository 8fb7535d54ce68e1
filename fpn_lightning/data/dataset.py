"""Images with their objects as network inputs, and batches of them."""

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
        geometry: how the image file became these pixels.
        image_id: COCO image id.
        targets: the objects to train on; None without annotations.
        ground_truth: all objects; None without annotations.
        proposals: fixed proposals; None without a store.
    """

    pixels: NDArray[np.uint8]
    geometry: Geometry
    image_id: int
    targets: Targets | None = None
    ground_truth: GroundTruth | None = None
    proposals: Proposals | None = None


class COCODataset(Dataset[Sample]):
    """Images of one split with their objects, addressed by (position in ``places``, epoch).

    Args:
        index: the split's annotations.
        image_folder: folder of its image files.
        transform: resizing and augmentation.
        places: int64, places in the index of the images that are used.
        training: augment images; otherwise only resize them.
        load_masks: load the objects' masks.
        proposals: store of fixed proposals of these images.
        max_proposals: largest number of proposals of an image; the best are taken.
        cache_images: keep every resized image in memory, so that it is decoded once.
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
        """Read the image of a place as the network input; a cached image is only flipped."""
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
        """Return the name of an image's file, relative to the split's image folder; KeyError for an unknown id."""
        return self.index.file_name(self.index.row(image_id))

    def pixels_orig(self, image_id: int) -> NDArray[np.uint8]:
        """Read an image as stored: uint8 ``(H, W, 3)`` RGB; InputError if it cannot be read."""
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
    """Open the store of a split's proposals, which is a folder named after the split.

    Args:
        root: folder of the stores; None for no proposals.
        split: name of the split.
        index: annotations of the split.
        places: int64, places in the index of the images whose proposals are needed.
        max_proposals: number of proposals of an image to use; a store that was made with fewer gives a warning.

    Raises:
        InputError: the store is missing or lacks these images.
    """
    if root is None:
        return None
    store = ProposalStore(Path(root) / split)
    store.check(split, index.fingerprint, index.image_ids[places])
    if store.header.post_nms_topk < max_proposals:
        rank_zero_warn(
            f"{store.folder} holds at most {store.header.post_nms_topk} proposals of an image; data.train_proposals or "
            f"data.eval_proposals is {max_proposals}"
        )
    return store


def mapped_targets(ground_truth: GroundTruth, geometry: Geometry, min_box_size: float) -> Targets:
    """Map the objects of an image file to its network input and keep those that can be trained on.

    Crowd regions are left out, as are boxes that :func:`~fpn_lightning.data.transforms.usable_boxes` rejects.
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
    """Map proposals of an image file to its network input, clipped to it, best first.

    Proposals narrower or lower than 0.001 px are left out, since no box can be regressed from them.
    """
    boxes, kept = usable_boxes(stored.boxes_orig.astype(np.float64), geometry, min_box_size=0)
    return Proposals(
        boxes=torch.from_numpy(boxes),
        objectness=torch.from_numpy(stored.objectness[kept]),
        levels=torch.from_numpy(stored.levels[kept].astype(np.int64)),
    )


@dataclass(frozen=True)
class Collate:
    """Pads images at the right and bottom with 0 to one size, a multiple of ``size_divisor``, and stacks them."""

    size_divisor: int = 32

    def __call__(self, samples: list[Sample]) -> Batch:
        """Make a batch of samples: pixels uint8 ``(N, 3, H, W)``; objects and proposals of samples that have them."""
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
    """Limit a loader's worker to one thread: OpenCV's threads would compete with the other workers.

    Workers ignore Ctrl-C. The main process finishes its step first, and then stops the workers with SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)

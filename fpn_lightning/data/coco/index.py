"""COCO annotations as memory-mapped arrays, which workers and ranks share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.coco.index_file import open_index
from fpn_lightning.data.coco.labels import PLURAL, Labels, merge_categories
from fpn_lightning.data.coco.segmentations import compressed_rle, segmentation_fault
from fpn_lightning.errors import InputError, listed
from fpn_lightning.ground_truth import RLE

MASKS_NEEDED = "masks are needed since data.load_masks is true, or segm is scored"


class Objects(NamedTuple):
    """The G objects of one image, in the order and with the numbers of the annotation file.

    Attributes:
        annotation_ids: int64 ``(G,)``.
        boxes_xywh: float64 ``(G, 4)`` pixels of the image file.
        areas: float64 ``(G,)`` px² of the image file.
        is_crowd: bool ``(G,)``.
        labels: int64 ``(G,)`` in [0, K).
    """

    annotation_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class COCOIndex:
    """The annotations of one split.

    Images are in ascending order of id; the place of an image is its position in that order, from 0. Opening reads
    next to nothing: the arrays are read-only views of a mapped file, and a copy sent to another process maps the same
    file again. Make one with :meth:`open`.

    Attributes:
        annotation_file: the JSON file.
        fingerprint: sha256 of that file.
        description: its ``info.description``, or an empty string.
        has_annotations: False for files that list images only (COCO's ``image_info_test-dev2017.json``).
        labels: what labels stand for: ``category`` or ``supercategory``.
        categories: category ids and names by label; those of the supercategories if they are the labels.
        image_ids: int64 ``(N,)`` ascending.
        sizes: int64 ``(N, 2)`` height and width of each image file.
        object_offsets: int64 ``(N + 1,)``; the image at place i has the objects ``offsets[i]:offsets[i + 1]``.
        objects: the arrays of all M objects.
        has_mask: bool ``(M,)``; False where there is no segmentation, or one that is not a mask of the image.
    """

    annotation_file: Path
    fingerprint: str
    description: str
    has_annotations: bool
    labels: Labels
    categories: Categories
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    object_offsets: NDArray[np.int64]
    objects: Objects
    has_mask: NDArray[np.bool_]
    _file_names: tuple[NDArray[np.uint8], NDArray[np.int64]]
    _segmentations: tuple[NDArray[np.uint8], NDArray[np.int64]]

    @classmethod
    def open(cls, annotation_file: str | Path, labels: Labels = "category", only_boxes: bool = False) -> Self:
        """Map the index of ``annotation_file``; the first call builds it.

        It lies beside the annotation file, or, where that folder is read-only, in the cache folder
        (``$FPN_LIGHTNING_CACHE``, else ``~/.cache/fpn_lightning``). It is the same for both kinds of labels.

        Args:
            annotation_file: the JSON file.
            labels: what labels stand for.
            only_boxes: accept images without a size or a file name. Scoring boxes needs neither. A missing size becomes
                0 × 0.

        Raises:
            InputError: the file is missing, is not COCO JSON, or holds ids that evaluators misread; or labels are
                supercategories and a category has none.
        """
        path = Path(annotation_file)
        facts, arrays = open_index(path)
        if facts["images_lack"] and not only_boxes:
            raise InputError(*facts["images_lack"])
        ids, names = facts["categories"]
        categories = Categories(tuple(ids), tuple(names))
        objects = Objects(*(arrays[name] for name in Objects._fields))
        if labels == "supercategory":
            categories, label_of = merge_categories(path, categories, facts["supercategories"])
            objects = objects._replace(labels=label_of[objects.labels])
        return cls(
            annotation_file=path,
            fingerprint=facts["sha256"],
            description=facts["description"],
            has_annotations=facts["has_annotations"],
            labels=labels,
            categories=categories,
            image_ids=arrays["image_ids"],
            sizes=arrays["sizes"],
            object_offsets=arrays["object_offsets"],
            objects=objects,
            has_mask=arrays["has_mask"],
            _file_names=(arrays["file_names"], arrays["file_name_offsets"]),
            _segmentations=(arrays["segmentations"], arrays["segmentation_offsets"]),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # What it lacks was checked when it was opened.
        return type(self).open, (self.annotation_file, self.labels, True)

    def __len__(self) -> int:
        return len(self.image_ids)

    def row(self, image_id: int) -> int:
        """Place of an image id; KeyError if the split has no such image."""
        place = int(np.searchsorted(self.image_ids, image_id))
        if place == len(self) or self.image_ids[place] != image_id:
            raise KeyError(f"{self.annotation_file} has no image {image_id}")
        return place

    def file_name(self, place: int) -> str:
        """Name of an image's file, relative to the split's image folder."""
        blob, offsets = self._file_names
        return blob[offsets[place] : offsets[place + 1]].tobytes().decode()

    def objects_of(self, place: int) -> Objects:
        """Objects of one image: views, not copies."""
        own = slice(int(self.object_offsets[place]), int(self.object_offsets[place + 1]))
        ids, boxes, areas, is_crowd, labels = self.objects
        return Objects(ids[own], boxes[own], areas[own], is_crowd[own], labels[own])

    def masks_of(self, place: int) -> list[RLE]:
        """The mask of each object of one image, made from COCO's polygons or RLE at each call.

        Raises:
            InputError: an object has no segmentation, or an invalid one.
        """
        own = range(int(self.object_offsets[place]), int(self.object_offsets[place + 1]))
        height, width = self.sizes[place].tolist()
        masks = []
        for i in own:
            if fault := self.mask_fault(i):
                raise InputError(f"{self.annotation_file}: {fault}; {MASKS_NEEDED}")
            masks.append(compressed_rle(self._segmentation(i), height, width))
        return masks

    def mask_fault(self, i: int) -> str:
        """Return why object i of the split has no mask, with its annotation id and image id.

        Return an empty string if it has a mask.
        """
        if self.has_mask[i]:
            return ""
        place = int(self.object_places[i])
        try:
            segmentation = self._segmentation(i)
            fault = segmentation_fault(segmentation, *self.sizes[place].tolist())
            problem = "no segmentation" if segmentation is None else f"no usable segmentation: {fault}"
        except RecursionError:
            problem = "no usable segmentation: it is nested too deeply"
        return f"annotation {self.objects.annotation_ids[i]} (image {self.image_ids[place]}) has {problem}"

    def _segmentation(self, i: int) -> Any:
        blob, offsets = self._segmentations
        return json.loads(blob[offsets[i] : offsets[i + 1]].tobytes() or b"null")

    def check_categories(self, num_classes: int, first: COCOIndex) -> None:
        """Check the number of categories, and that another split has the same ones.

        Args:
            num_classes: the configured number.
            first: the split opened first; it may be this one.

        Raises:
            InputError: they differ, so labels would be wrong or out of range.
        """
        if self.categories != first.categories:
            own, other = (
                set(zip(known.categories.ids, known.categories.names, strict=True)) for known in (self, first)
            )
            raise InputError(
                f"{self.annotation_file}: its categories are not those of {first.annotation_file}, so labels would "
                f"differ in meaning: only here {listed(sorted(own - other)) or 'none'}, only there "
                f"{listed(sorted(other - own)) or 'none'}; give both files the same 'categories'"
            )
        if len(self.categories) != num_classes:
            used = set(self.objects.labels.tolist())
            unused = [name for label, name in enumerate(self.categories.names) if label not in used]
            raise InputError(
                f"data.num_classes is {num_classes}, but {self.annotation_file} has {len(self.categories)} "
                f"{PLURAL[self.labels]}; set data.num_classes to {len(self.categories)}"
                + (f", or delete those without objects: {listed(unused)}" if unused and used else "")
            )

    @cached_property
    def object_places(self) -> NDArray[np.int64]:
        """Int64 ``(M,)``: the place of every object's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.object_offsets))


def split_paths(root: str | Path, split: str) -> tuple[Path, Path]:
    """Find the annotation file and the image folder of a split in COCO's layout.

    They are ``root/annotations/instances_<split>.json``, or ``image_info_<split>.json`` for a split without
    annotations, and ``root/<split>/``. COCO's ``test-dev2017`` lists images of the folder ``test2017``.

    Raises:
        InputError: the split is not a folder name, or a file is missing; the message says how to get the data.
    """
    if split != Path(split).name:
        raise InputError(f"split {split!r} is not the name of a folder in data.root. Give a name, as in val2017.")
    root = Path(root)
    annotations = root / "annotations" / f"instances_{split}.json"
    if not annotations.is_file() and (listing := annotations.with_name(f"image_info_{split}.json")).is_file():
        annotations = listing
    images = root / split
    if not images.is_dir() and split.startswith("test-dev"):
        images = root / split.replace("-dev", "", 1)
    if not root.is_dir():
        raise InputError(
            f"{root} is missing (data.root={root}, split {split}). Download COCO with "
            f"`python -m fpn_lightning.data.download --root {root}`. Or generate the embedded data set with "
            f"`python -m fpn_lightning.data.synthetic --root {root}` and the options in the first lines of the "
            f"preset's file. {_layout(split)}"
        )
    if not annotations.is_file():
        there = sorted(path.name for path in annotations.parent.glob("*.json"))
        holds = f"the folder holds {listed(there)}" if there else "there is no annotation file beside it"
        raise InputError(f"{annotations} is missing; {holds} (data.root={root}, split {split}). {_layout(split)}")
    if not images.is_dir():
        hint = ""
        if folders := sorted(path.name for path in root.iterdir() if path.is_dir() and path != annotations.parent):
            hint = f". {root} holds {listed(folders)}. If the images are in {folders[0]}: ln -s {folders[0]} {images}"
        raise InputError(
            f"{images} is missing, the folder of the images that {annotations} lists (data.root={root}, split {split})"
            f"{hint}"
        )
    return annotations, images


def _layout(split: str) -> str:
    return f"A data set needs annotations/instances_{split}.json and the images in {split}/."

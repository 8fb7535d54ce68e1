"""Store COCO annotations as memory-mapped arrays, which all training processes and data-loading workers share."""

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

MASKS_NEEDED = "masks are needed because data.load_masks is true or the metric is segm"


class Objects(NamedTuple):
    """The G annotated objects of one image, or of all images of a split.

    An image's objects are in the order of the annotation file. Their boxes and areas have the values of this file.

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
    """The annotations of one split, opened with :meth:`open`.

    Images are sorted by id. The "place" of an image is its index in ``image_ids``. The arrays are read-only views of a
    memory-mapped file, so opening an index is fast. If a ``COCOIndex`` is pickled and sent to another process, that
    process maps the same file.

    Attributes:
        annotation_file: path of the JSON file.
        fingerprint: sha256 of the JSON file.
        description: ``info.description`` of the JSON file, or an empty string.
        has_annotations: False if the JSON file only lists images, such as COCO's ``image_info_test-dev2017.json``.
        labels: kind of the classes: ``category`` or ``supercategory``.
        categories: ids and names of the categories, or of the supercategories if ``labels`` is ``supercategory``.
        image_ids: int64 ``(N,)`` ascending.
        sizes: int64 ``(N, 2)`` height and width of each image file.
        object_offsets: int64 ``(N + 1,)``; the image at place i has the objects ``object_offsets[i]`` to
            ``object_offsets[i + 1] - 1``.
        objects: all M objects, grouped by image in the order of ``image_ids``.
        has_mask: bool ``(M,)``; False if the object has no segmentation or an invalid segmentation.
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
        """Open the index of ``annotation_file``; the first call builds the index.

        The index is written to the annotation file's folder. If the annotation file's folder is read-only, the index
        is written to the cache folder (``$FPN_LIGHTNING_CACHE``, by default ``~/.cache/fpn_lightning``). The same index
        file is used for categories and for supercategories.

        Args:
            annotation_file: path of the JSON file.
            labels: kind of the classes: ``category`` or ``supercategory``.
            only_boxes: accept images without height, width or file name, because the scoring of boxes does not need
                these keys. A missing height or width becomes 0.

        Raises:
            InputError: the file is missing, is not valid COCO JSON, or has an annotation id of 0 or less
                (COCO's evaluators read id 0 as "unmatched"). The error is also raised if ``labels`` is
                ``supercategory`` and a category has no supercategory.
        """
        path = Path(annotation_file)
        facts, arrays = open_index(path)
        if facts["images_lack"] and not only_boxes:
            raise InputError(*facts["images_lack"])
        categories = Categories(*map(tuple, facts["categories"]))
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
        # only_boxes=True does not check sizes and file names again: they were checked when this index was opened.
        return type(self).open, (self.annotation_file, self.labels, True)

    def __len__(self) -> int:
        return len(self.image_ids)

    def row(self, image_id: int) -> int:
        """Return the index of ``image_id`` in ``image_ids``; raise KeyError if the split has no image with this id."""
        place = int(np.searchsorted(self.image_ids, image_id))
        if place == len(self) or self.image_ids[place] != image_id:
            raise KeyError(f"{self.annotation_file} has no image {image_id}")
        return place

    def file_name(self, place: int) -> str:
        """Return the name of an image's file, relative to the split's image folder."""
        blob, offsets = self._file_names
        return blob[offsets[place] : offsets[place + 1]].tobytes().decode()

    def objects_of(self, place: int) -> Objects:
        """Return the objects of one image. The arrays are views, not copies."""
        own = slice(*self.object_offsets[place : place + 2].tolist())
        return Objects._make(array[own] for array in self.objects)

    def masks_of(self, place: int) -> list[RLE]:
        """Return the mask of each object of one image. Masks are not cached: each call converts polygons or RLE again.

        Raises:
            InputError: an object has no segmentation or an invalid segmentation.
        """
        height, width = self.sizes[place].tolist()
        masks = []
        for i in range(*self.object_offsets[place : place + 2].tolist()):
            if fault := self.mask_fault(i):
                raise InputError(f"{self.annotation_file}: {fault}; {MASKS_NEEDED}")
            masks.append(compressed_rle(self._segmentation(i), height, width))
        return masks

    def mask_fault(self, i: int) -> str:
        """Return the reason why object ``i`` of the split has no mask, or an empty string if the object has a mask.

        The reason includes the annotation id and the image id.
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
        """Check that the split has ``num_classes`` categories, and the same categories as the split ``first``.

        Raises:
            InputError: the number of categories is wrong, or the categories differ from those of ``first``.
        """
        if self.categories != first.categories:
            own, other = (set(zip(c.ids, c.names, strict=True)) for c in (self.categories, first.categories))
            raise InputError(
                f"{self.annotation_file}: the categories differ from those of {first.annotation_file}, so one label "
                f"would mean two categories (only in this file: {listed(sorted(own - other)) or 'none'}; only in the "
                f"other file: {listed(sorted(other - own)) or 'none'}); give both files the same 'categories'"
            )
        if len(self.categories) != num_classes:
            used = set(self.objects.labels.tolist())
            kinds = PLURAL[self.labels]
            unused = [name for label, name in enumerate(self.categories.names) if label not in used]
            raise InputError(
                f"data.num_classes is {num_classes}, but {self.annotation_file} has {len(self.categories)} "
                f"{kinds}; set data.num_classes to {len(self.categories)}"
                + (f", or delete the {kinds} without objects: {listed(unused)}" if unused and used else "")
            )

    @cached_property
    def object_places(self) -> NDArray[np.int64]:
        """Place of each object's image: an index into ``image_ids``, int64 ``(M,)``."""
        return np.repeat(np.arange(len(self)), np.diff(self.object_offsets))


def split_paths(root: str | Path, split: str) -> tuple[Path, Path]:
    """Find the annotation file and the image folder of a split in COCO's folder layout.

    The annotation file is ``root/annotations/instances_<split>.json``, or ``image_info_<split>.json`` for a split
    without annotations. The image folder is ``root/<split>/``. COCO's ``test-dev2017`` uses the folder ``test2017``.

    Raises:
        InputError: ``split`` is not the name of a folder, or the annotation file or the image folder is missing.
    """
    if split != Path(split).name:
        raise InputError(f"split {split!r} is not the name of a folder in data.root; use a name such as val2017")
    root = Path(root)
    layout = f"A data set needs annotations/instances_{split}.json and the images in {split}/."
    annotations = root / "annotations" / f"instances_{split}.json"
    if not annotations.is_file() and (listing := annotations.with_name(f"image_info_{split}.json")).is_file():
        annotations = listing
    images = root / split
    if not images.is_dir() and split.startswith("test-dev"):
        images = root / split.replace("-dev", "", 1)
    if not root.is_dir():
        raise InputError(
            f"{root} is missing (data.root={root}, split {split}). Download COCO with "
            f"`python -m fpn_lightning.data.download --root {root}`. Or generate the synthetic data set with "
            f"`python -m fpn_lightning.data.synthetic --root {root}`; the comment at the top of configs/presets/"
            f"<preset>.yaml has the full command for the preset's data set. {layout}"
        )
    if not annotations.is_file():
        there = sorted(path.name for path in annotations.parent.glob("*.json"))
        holds = f"the folder contains {listed(there)}" if there else "the folder contains no JSON file"
        raise InputError(f"{annotations} is missing; {holds} (data.root={root}, split {split}). {layout}")
    if not images.is_dir():
        hint = ""
        if folders := sorted(path.name for path in root.iterdir() if path.is_dir() and path != annotations.parent):
            hint = (
                f". {root} contains {listed(folders)}. If the images are in {folders[0]}: ln -s {folders[0]} {images}"
            )
        raise InputError(
            f"{images} is missing; this folder must contain the images that {annotations} lists (data.root={root}, "
            f"split {split}){hint}"
        )
    return annotations, images

"""What flows between data, models, stages and evaluation: shapes and units, stated once.

Shape shorthand: N images, H x W the padded height and width of a batch, G objects of one image, P proposals of one
image, D detections of one image, K foreground classes.

Boxes are float32 ``(., 4)`` xyxy in pixels of the *network input* (after resizing and flipping, before padding),
without a "+1" in widths or heights. Boxes in pixels of the image file carry ``_orig`` in their name.
Sizes are always ``(height, width)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert

from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry


class RLE(TypedDict):
    """A mask as COCO's result files hold it: column-major run lengths in COCO's compressed text."""

    size: list[int]
    """Height and width of the image file."""
    counts: str
    """The run lengths."""


@dataclass
class _TensorStruct:
    """Moves every tensor a structure holds, so that Lightning and the DataLoader can treat it as one value."""

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        def visit(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, _TensorStruct):
                return value._map(function)
            return [visit(item) for item in value] if isinstance(value, list) else value

        return replace(self, **{f.name: visit(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy whose tensors are on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy whose tensors lie in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class ImageBatch(_TensorStruct):
    """Images of one batch, padded at the right and bottom to a common size.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)`` RGB in [0, 255]; padding is 0. Normalised by the backbone on the device.
        sizes: int64 ``(N, 2)`` height and width of each image inside the padding, network-input pixels.
        image_ids: int64 ``(N,)`` COCO image ids.
        geometries: N, how each image file became its network input; their ``size`` is ``sizes``.
    """

    pixels: Tensor
    sizes: Tensor
    image_ids: Tensor
    geometries: list[Geometry]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def only(self, n: int) -> ImageBatch:
        """Image ``n`` alone; its padding stays."""
        rows = slice(n, n + 1)
        return ImageBatch(self.pixels[rows], self.sizes[rows], self.image_ids[rows], self.geometries[rows])


@dataclass
class Targets(_TensorStruct):
    """The objects of one image that are trained on: no crowd regions, and large enough in the network input.

    Attributes:
        boxes: float32 ``(G, 4)`` xyxy, network-input pixels, inside the image.
        labels: int64 ``(G,)`` in [0, K).
        masks: G masks of the image file; empty unless the data module was asked for masks.
    """

    boxes: Tensor
    labels: Tensor
    masks: list[RLE] = field(default_factory=list)


@dataclass(frozen=True)
class GroundTruth:
    """All objects of one image as the annotation file gives them: what metrics and pictures compare with.

    Its arrays stay on the CPU in float64 when a batch is moved.

    Attributes:
        image_id: COCO image id.
        boxes_xywh: float64 ``(G, 4)`` pixels of the image file, crowd regions too, in the file's order.
        areas: float64 ``(G,)`` the annotation's ``area``, px² of the image file.
        is_crowd: bool ``(G,)``.
        labels: int64 ``(G,)`` in [0, K), or category ids where a result file is scored.
        annotation_ids: int64 ``(G,)``; empty where nobody asks for them.
        masks: G masks of the image file; empty unless masks were asked for.
    """

    image_id: int
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    labels: NDArray[np.int64]
    annotation_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    masks: list[RLE] = field(default_factory=list)

    @property
    def boxes_orig(self) -> NDArray[np.float64]:
        """float64 ``(G, 4)`` xyxy, pixels of the image file."""
        # A copy: the arrays may be mapped read-only, which tensors cannot be.
        return box_convert(torch.tensor(self.boxes_xywh, dtype=torch.float64), "xywh", "xyxy").numpy()


def check_masks(objects: Targets | GroundTruth) -> None:
    """Make sure that an image's objects have masks.

    Raises:
        InputError: if the data module was not asked for them.
    """
    if len(objects.masks) != len(objects.labels):
        raise InputError("mask proposals need the objects' masks: set data.load_masks to true")


@dataclass
class Proposals(_TensorStruct):
    """Region proposals of one image, best first.

    Attributes:
        boxes: float32 ``(P, 4)`` xyxy, network-input pixels, inside the image.
        objectness: float32 ``(P,)`` logits, descending. Logits, not probabilities: float32 sigmoids tie near 1.
        levels: int64 ``(P,)`` the pyramid level k whose anchor gave the proposal.
    """

    boxes: Tensor
    objectness: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def to_orig(self, geometry: Geometry, image_id: int) -> ProposalsOrig:
        """The same proposals, in the same order, in pixels of the image file and on the CPU."""
        return ProposalsOrig(image_id, _boxes_orig(self.boxes, geometry), self.objectness.cpu(), self.levels.cpu())


@dataclass
class ProposalsOrig(_TensorStruct):
    """Region proposals of one image in pixels of its file, best first, on the CPU: what ``predict`` gives.

    Attributes:
        image_id: COCO image id; for a folder of images 1..n by sorted file name.
        boxes_orig: float64 ``(P, 4)`` xyxy, pixels of the image file, inside the image.
        objectness: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` the pyramid level k whose anchor gave the proposal.
    """

    image_id: int
    boxes_orig: Tensor
    objectness: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return self.boxes_orig.shape[0]

    @property
    def boxes_xywh(self) -> Tensor:
        """The boxes in COCO's file form: float64 x, y, width, height, pixels of the image file."""
        return box_convert(self.boxes_orig, "xyxy", "xywh")


@dataclass
class Detections(_TensorStruct):
    """What a detector found in one image, best first.

    Attributes:
        boxes: float32 ``(D, 4)`` xyxy, network-input pixels, inside the image.
        scores: float32 ``(D,)`` probabilities in [0, 1], descending.
        labels: int64 ``(D,)`` in [0, K).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def to_orig(self, geometry: Geometry, image_id: int) -> DetectionsOrig:
        """The same detections, in the same order, in pixels of the image file and on the CPU."""
        return DetectionsOrig(image_id, _boxes_orig(self.boxes, geometry), self.scores.cpu(), self.labels.cpu())


@dataclass
class DetectionsOrig(_TensorStruct):
    """What a detector found in one image in pixels of its file, best first, on the CPU: what ``predict`` gives.

    Attributes:
        image_id: COCO image id; for a folder of images 1..n by sorted file name.
        boxes_orig: float64 ``(D, 4)`` xyxy, pixels of the image file, inside the image.
        scores: float32 ``(D,)`` probabilities in [0, 1], descending.
        labels: int64 ``(D,)`` in [0, K).
    """

    image_id: int
    boxes_orig: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.boxes_orig.shape[0]

    @property
    def boxes_xywh(self) -> Tensor:
        """The boxes in COCO's file form: float64 x, y, width, height, pixels of the image file."""
        return box_convert(self.boxes_orig, "xyxy", "xywh")


@dataclass
class Batch(_TensorStruct):
    """What the data module yields: images and, image by image, their objects and their proposals.

    ``targets`` and ``ground_truths`` are empty for splits without annotations and for folders of images, ``proposals``
    where the data module was given no store of them. Proposals are fixed ones, read from a store and moved with the
    image.
    """

    images: ImageBatch
    targets: list[Targets] = field(default_factory=list)
    ground_truths: list[GroundTruth] = field(default_factory=list)
    proposals: list[Proposals] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)


def _boxes_orig(boxes: Tensor, geometry: Geometry) -> Tensor:
    """float64 boxes in pixels of the image file, inside the image, on the CPU."""
    # MPS has no float64; boxes are few, so the arithmetic is done on the CPU.
    mapped = geometry.to_image(boxes.detach().cpu().double().numpy())
    return torch.from_numpy(geometry.clip_to_image(mapped))

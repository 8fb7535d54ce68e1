"""The structures that data, models, stages and evaluation exchange, with their shapes and units.

Letters in shapes: N images in a batch, padded to H x W; G objects, P proposals or D detections of one image; K
foreground classes.

Boxes are float32 ``(., 4)`` xyxy in pixels of the *network input*, which is the resized and flipped image without
padding. The width of a box is x2 - x1, without "+1". The name of a box tensor in pixels of the image file ends in
``_orig``. Sizes are ``(height, width)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torchvision.ops import box_convert

from fpn_lightning.geometry import Geometry
from fpn_lightning.ground_truth import RLE, GroundTruth


@dataclass
class _TensorStruct:
    """Base class with the methods ``to`` and ``pin_memory``, which Lightning and the DataLoader call."""

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        def visit(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, _TensorStruct):
                return value._map(function)
            return [visit(item) for item in value] if isinstance(value, list) else value

        return replace(self, **{f.name: visit(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy with all tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy with all tensors in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class ImageBatch(_TensorStruct):
    """The images of one batch, padded at the right and bottom to a common size.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)`` RGB in [0, 255], padded with 0. The backbone normalises the pixels on the device.
        sizes: int64 ``(N, 2)`` height and width of each image without padding, network-input pixels.
        image_ids: int64 ``(N,)`` COCO image ids.
        geometries: how each image file became the network input; ``geometries[n].size`` equals ``sizes[n]``.
    """

    pixels: Tensor
    sizes: Tensor
    image_ids: Tensor
    geometries: list[Geometry]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def only(self, n: int) -> ImageBatch:
        """Return a batch of image ``n`` alone, with the same padding."""
        one = slice(n, n + 1)
        return ImageBatch(self.pixels[one], self.sizes[one], self.image_ids[one], self.geometries[one])


@dataclass
class Targets(_TensorStruct):
    """The objects of one image that a model is trained on, without crowd regions and very small objects.

    Attributes:
        boxes: float32 ``(G, 4)`` xyxy, network-input pixels, inside the image.
        labels: int64 ``(G,)`` in [0, K).
        masks: G masks in pixels of the image file; empty unless ``data.load_masks`` is true.
    """

    boxes: Tensor
    labels: Tensor
    masks: list[RLE] = field(default_factory=list)


@dataclass
class Proposals(_TensorStruct):
    """Region proposals of one image, best first.

    Attributes:
        boxes: float32 ``(P, 4)`` xyxy, network-input pixels, inside the image.
        objectness: float32 ``(P,)`` logits, descending. They are not stored as probabilities, because the float32
            probabilities of high logits would be equal.
        levels: int64 ``(P,)`` pyramid level k of the anchor of each proposal.
    """

    boxes: Tensor
    objectness: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def to_orig(self, geometry: Geometry, image_id: int) -> ProposalsOrig:
        """Map the boxes to pixels of the image file; the result is on the CPU and in the same order."""
        return ProposalsOrig(image_id, _boxes_orig(self.boxes, geometry), self.objectness.cpu(), self.levels.cpu())


@dataclass
class _BoxesOrig(_TensorStruct):
    """Base class of ``ProposalsOrig`` and ``DetectionsOrig``."""

    image_id: int
    boxes_orig: Tensor

    def __len__(self) -> int:
        return self.boxes_orig.shape[0]

    @property
    def boxes_xywh(self) -> Tensor:
        """The boxes in COCO's format: float64 ``(., 4)`` x, y, width, height in pixels of the image file."""
        return box_convert(self.boxes_orig, "xyxy", "xywh")


@dataclass
class ProposalsOrig(_BoxesOrig):
    """Region proposals of one image as ``predict`` returns them: in pixels of the image file, best first, on the CPU.

    Attributes:
        image_id: COCO image id; for a folder of images, the number of the file by sorted name, from 1.
        boxes_orig: float64 ``(P, 4)`` xyxy, pixels of the image file, inside the image.
        objectness: float32 ``(P,)`` logits, descending.
        levels: int64 ``(P,)`` pyramid level k of the anchor of each proposal.
    """

    objectness: Tensor
    levels: Tensor


@dataclass
class Detections(_TensorStruct):
    """Detections of one image, best first.

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
        """Map the boxes to pixels of the image file; the result is on the CPU and in the same order."""
        return DetectionsOrig(image_id, _boxes_orig(self.boxes, geometry), self.scores.cpu(), self.labels.cpu())


@dataclass
class DetectionsOrig(_BoxesOrig):
    """Detections of one image as ``predict`` returns them: in pixels of the image file, best first, on the CPU.

    Attributes:
        image_id: COCO image id; for a folder of images, the number of the file by sorted name, from 1.
        boxes_orig: float64 ``(D, 4)`` xyxy, pixels of the image file, inside the image.
        scores: float32 ``(D,)`` probabilities in [0, 1], descending.
        labels: int64 ``(D,)`` in [0, K).
    """

    scores: Tensor
    labels: Tensor


@dataclass
class Batch(_TensorStruct):
    """A batch of the data module: images with their annotated objects and stored proposals.

    Attributes:
        images: N images.
        targets: training targets of each image; empty for a split without annotations and for a folder of images.
        ground_truths: annotated objects of each image; empty if ``targets`` is empty.
        proposals: proposals of each image from ``data.proposals``, in network-input pixels; empty if
            ``data.proposals`` is null.
    """

    images: ImageBatch
    targets: list[Targets] = field(default_factory=list)
    ground_truths: list[GroundTruth] = field(default_factory=list)
    proposals: list[Proposals] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)


def _boxes_orig(boxes: Tensor, geometry: Geometry) -> Tensor:
    """Return float64 boxes in pixels of the image file, clipped to the image, on the CPU."""
    # Compute on the CPU, because MPS has no float64 and the number of boxes is small.
    mapped = geometry.to_image(boxes.detach().cpu().double().numpy())
    return torch.from_numpy(geometry.clip_to_image(mapped))

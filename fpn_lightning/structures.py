"""What flows between data, models, stages and evaluation: shapes and units, stated once.

Shape shorthand: N images, H x W the padded height and width of a batch, G ground-truth objects of one image,
P proposals of one image, D detections of one image, K foreground classes.

Boxes are float32 ``(., 4)`` xyxy in pixels of the *network input* (after resizing and flipping, before padding),
without a "+1" in widths or heights. Whatever is in pixels of the image file carries ``_orig`` in its name.
Sizes are always ``(height, width)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class _TensorStruct:
    """Moves every tensor a structure holds, so that Lightning and the DataLoader can treat it as one value."""

    def _map(self, function: Any) -> Self:
        def visit(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, _TensorStruct):
                return value._map(function)
            if isinstance(value, list):
                return [visit(item) for item in value]
            return value

        return type(self)(**{f.name: visit(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy whose tensors are on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor | _TensorStruct):
                return value.to(device, non_blocking=non_blocking)
            return [move(item) for item in value] if isinstance(value, list) else value

        return type(self)(**{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def pin_memory(self) -> Self:
        """Return a copy whose tensors lie in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class ImageBatch(_TensorStruct):
    """Images of one batch, padded at the right and bottom to a common size.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)`` RGB in [0, 255]; padding is 0. Normalised by the trunk on the device.
        sizes: int64 ``(N, 2)`` height and width of each image inside the padding, network-input pixels.
        sizes_orig: int64 ``(N, 2)`` height and width of each image file.
        image_ids: int64 ``(N,)`` COCO image ids.
        flipped: bool ``(N,)`` whether the image is mirrored left to right.
    """

    pixels: Tensor
    sizes: Tensor
    sizes_orig: Tensor
    image_ids: Tensor
    flipped: Tensor

    def __len__(self) -> int:
        return self.pixels.shape[0]


@dataclass
class Targets(_TensorStruct):
    """Ground truth of one image.

    What training uses is in network-input pixels and excludes crowd regions; what evaluation uses is kept as the
    annotation file gives it and never passes the augmenter. The two parts need not have the same length.

    Attributes:
        boxes: float32 ``(G, 4)`` xyxy, network-input pixels, non-crowd objects that survive augmentation.
        labels: int64 ``(G,)`` in [0, K).
        indices: int64 ``(G,)`` row of each training object in the ``_orig`` arrays (masks are looked up by it).
        boxes_xywh_orig: float64 ``(G', 4)`` as in the annotation file, all objects, crowd too.
        areas_orig: float64 ``(G',)`` the annotation's ``area`` (px² of the image file).
        is_crowd: bool ``(G',)``.
        labels_orig: int64 ``(G',)`` in [0, K).
        annotation_ids: int64 ``(G',)``.
        segmentations: per object of the ``_orig`` arrays COCO's polygons (list of flat x, y lists) or RLE (dict);
            empty unless the data module was asked for masks.
    """

    boxes: Tensor
    labels: Tensor
    indices: Tensor
    boxes_xywh_orig: Tensor
    areas_orig: Tensor
    is_crowd: Tensor
    labels_orig: Tensor
    annotation_ids: Tensor
    segmentations: list[Any] = field(default_factory=list)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Move what training uses; evaluation reads its float64 part on the CPU."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("boxes", "labels", "indices")
        }
        return replace(self, **moved)


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


@dataclass
class Batch(_TensorStruct):
    """What the data module yields: images and, image by image, their ground truth and their proposals.

    ``targets`` is empty for splits without annotations and for folders of images, ``proposals`` where the data module
    was given no store of them. Proposals are fixed ones, read from a store and moved with the image.
    """

    images: ImageBatch
    targets: list[Targets]
    proposals: list[Proposals] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)


def boxes_to_original(boxes: Tensor, size: Tensor, size_orig: Tensor, flipped: Tensor | bool) -> Tensor:
    """Map boxes from network-input pixels back to pixels of the image file.

    Args:
        boxes: ``(P, 4)`` xyxy, network-input pixels.
        size: int64 ``(2,)`` height, width of the network input without padding.
        size_orig: int64 ``(2,)`` height, width of the image file.
        flipped: whether the input was mirrored left to right.

    Returns:
        float64 ``(P, 4)`` xyxy in pixels of the image file, inside the image.
    """
    # MPS has no float64; boxes are few, so the arithmetic is done on the CPU.
    out = boxes.detach().cpu().double()
    height, width = (float(value) for value in size.tolist())
    height_orig, width_orig = (float(value) for value in size_orig.tolist())
    if bool(flipped):
        out = torch.stack((width - out[:, 2], out[:, 1], width - out[:, 0], out[:, 3]), dim=1)
    scale = out.new_tensor((width_orig / width, height_orig / height) * 2)
    limit = out.new_tensor((width_orig, height_orig) * 2)
    return (out * scale).clamp(min=0).minimum(limit)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corner form to COCO's file form: ``(., 4)`` x1 y1 x2 y2 to x y width height, same dtype."""
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)

"""Featurised image pyramid: the detector runs on each image at several scales (FPN Fig. 1(a)).

Shape shorthand: N images, H x W padded input size, P proposals of one image.

Features are computed separately for every scale, so the time grows with the sum of the squared scales. Image pyramids
are used only for testing, because training on all scales at once does not fit into memory (FPN §1). A scale is a
factor on the sides of the network input; scale 1 is the size that the data module sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, nms

from fpn_lightning.errors import InputError
from fpn_lightning.structures import ImageBatch, Proposals


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Check the scales of an image pyramid and return them as a tuple.

    Raises:
        InputError: if the list of scales is empty, or if a scale is not positive or occurs twice.
    """
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales) or len(set(scales)) < len(scales):
        raise InputError(
            f"model.detector.image_scales is {list(scales)}. Set image_scales to different positive numbers, such as "
            "[0.5, 1]."
        )
    return tuple(scales)


def scale_images(images: ImageBatch, scale: float) -> ImageBatch:
    """Resize the images of a batch by a factor.

    Each image is resized without its padding, so that interpolation does not mix padding into the image. Interpolation
    is bilinear, with antialiasing for scales below 1. The new sides are rounded to whole pixels and are at least 1 px.

    Args:
        images: the batch.
        scale: factor on height and width.

    Returns:
        A batch with ``pixels`` uint8 ``(N, 3, ceil(scale * H), ceil(scale * W))``, padded with 0, and the new ``sizes``
        and ``geometries``.
    """
    height, width = (math.ceil(scale * side) for side in images.pixels.shape[-2:])
    pixels = images.pixels.new_zeros(*images.pixels.shape[:2], height, width)
    sizes = (images.sizes.float() * scale).round().long().clamp(min=1)
    new_sizes = sizes.tolist()
    for index, ((old_h, old_w), (new_h, new_w)) in enumerate(zip(images.sizes.tolist(), new_sizes, strict=True)):
        image = images.pixels[index : index + 1, :, :old_h, :old_w].float()
        resized = F.interpolate(image, (new_h, new_w), mode="bilinear", align_corners=False, antialias=scale < 1)
        pixels[index, :, :new_h, :new_w] = resized[0].round().clamp(0, 255).to(pixels.dtype)
    geometries = [replace(geometry, size=(h, w)) for geometry, (h, w) in zip(images.geometries, new_sizes, strict=True)]
    return ImageBatch(pixels, sizes, images.image_ids, geometries)


def boxes_between_scales(boxes: Tensor, size: Tensor, new_size: Tensor) -> Tensor:
    """Map boxes from an image to the same image at another size.

    Coordinates along each axis are multiplied by ``new_size / size``. This factor differs slightly from the scale of
    the image pyramid, because sizes are rounded to whole pixels.

    Args:
        boxes: ``(P, 4)`` xyxy, pixels of the image at ``size``.
        size: int64 ``(2,)`` height and width.
        new_size: int64 ``(2,)`` height and width.

    Returns:
        ``(P, 4)`` xyxy, pixels of the image at ``new_size``.
    """
    height, width = (new_size.to(boxes) / size.to(boxes)).unbind()
    return boxes * torch.stack((width, height, width, height))


def merge_proposals(
    of_scales: Sequence[Proposals], size: tuple[int, int], nms_thresh: float, post_nms_topk: int
) -> Proposals:
    """Merge one image's proposals from several scales by a single NMS over all scales.

    Args:
        of_scales: proposals of each scale, in pixels of the network input at scale 1.
        size: height and width of the image, in pixels of the network input at scale 1.
        nms_thresh: if the IoU of two proposals, also of different scales, is above this value, the proposal with the
            lower objectness is removed.
        post_nms_topk: largest number of proposals to keep.

    Returns:
        At most ``post_nms_topk`` proposals, clipped to the image, highest objectness first.
    """
    boxes = clip_boxes_to_image(torch.cat([proposals.boxes for proposals in of_scales]), size)
    objectness = torch.cat([proposals.objectness for proposals in of_scales])
    levels = torch.cat([proposals.levels for proposals in of_scales])
    kept = nms(boxes, objectness, nms_thresh)[:post_nms_topk]
    return Proposals(boxes[kept], objectness[kept], levels[kept])


@torch.no_grad()
def propose_on_scales(
    propose: Callable[[ImageBatch], list[Proposals]],
    images: ImageBatch,
    scales: Sequence[float],
    nms_thresh: float,
    post_nms_topk: int,
) -> list[Proposals]:
    """Compute proposals on a batch at every scale, and merge the proposals of each image.

    Args:
        propose: function from a batch to the proposals of each image, in pixels of the batch's images.
        images: the batch at scale 1.
        scales: factors on the sides of the network input; for ``(1.0,)``, the result is ``propose(images)``.
        nms_thresh: see :func:`merge_proposals`.
        post_nms_topk: see :func:`merge_proposals`.

    Returns:
        Proposals of each of the N images, in pixels of ``images``, highest objectness first. A proposal from level k at
        a scale gets the level ``k - round(log2(scale))``. For example, at scale 2, a cell of p4 (stride 16) covers
        8 x 8 pixels of ``images``, as a cell of p3 (stride 8) does at scale 1.
    """
    if tuple(scales) == (1.0,):
        return propose(images)
    of_images: list[list[Proposals]] = [[] for _ in range(len(images))]
    for scale in scales:
        scaled = scale_images(images, scale)
        for index, proposals in enumerate(propose(scaled)):
            boxes = boxes_between_scales(proposals.boxes, scaled.sizes[index], images.sizes[index])
            levels = proposals.levels - round(math.log2(scale))
            of_images[index].append(Proposals(boxes, proposals.objectness, levels))
    return [
        merge_proposals(of_scales, (height, width), nms_thresh, post_nms_topk)
        for of_scales, (height, width) in zip(of_images, images.sizes.tolist(), strict=True)
    ]

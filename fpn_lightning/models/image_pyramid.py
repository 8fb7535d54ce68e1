"""Featurised image pyramid: the network runs on the image at several scales (FPN Fig. 1(a)).

Shape shorthand: N images, H x W padded input size, P proposals of one image.

Features are computed anew for every scale, so time and memory grow with the sum of the squared scales. It is used at
test time only, since training on all scales at once does not fit into memory (FPN §1). Scales are relative to the
network input, whose size the data module sets.
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
    """Return the scales as a tuple.

    Raises:
        InputError: if the list is empty, or if a scale is not positive or is repeated.
    """
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales) or len(set(scales)) < len(scales):
        raise InputError(
            f"model.detector.image_scales is {list(scales)}; give different positive numbers, such as [0.5, 1]."
        )
    return tuple(scales)


def scale_images(images: ImageBatch, scale: float) -> ImageBatch:
    """Resize the images of a batch and their padding.

    Each image is resized without its padding, so that the two do not mix: bilinearly, with antialiasing for scales
    below 1. Its new sides are rounded to whole pixels and at least 1 px.

    Args:
        images: a batch.
        scale: factor on both sides.

    Returns:
        A batch with ``pixels`` uint8 ``(N, 3, ceil(scale * H), ceil(scale * W))``, 0 outside the images, and the new
        ``sizes`` and ``geometries``.
    """
    height, width = (math.ceil(scale * side) for side in images.pixels.shape[-2:])
    pixels = images.pixels.new_zeros(*images.pixels.shape[:2], height, width)
    sizes = (images.sizes.float() * scale).round().long().clamp(min=1)
    for index, ((old_h, old_w), (new_h, new_w)) in enumerate(zip(images.sizes.tolist(), sizes.tolist(), strict=True)):
        image = images.pixels[index : index + 1, :, :old_h, :old_w].float()
        resized = F.interpolate(image, (new_h, new_w), mode="bilinear", align_corners=False, antialias=scale < 1)
        pixels[index, :, :new_h, :new_w] = resized[0].round().clamp(0, 255).to(pixels.dtype)
    geometries = [
        replace(geometry, size=(height, width))
        for geometry, (height, width) in zip(images.geometries, sizes.tolist(), strict=True)
    ]
    return ImageBatch(pixels, sizes, images.image_ids, geometries)


def boxes_between_scales(boxes: Tensor, size: Tensor, new_size: Tensor) -> Tensor:
    """Map boxes from an image to the same image at another size.

    Each axis has the factor of the actual sizes, which are whole pixels, and not the nominal scale.

    Args:
        boxes: ``(P, 4)`` xyxy, pixels of the image at ``size``.
        size: int64 ``(2,)`` height, width.
        new_size: int64 ``(2,)`` height, width.

    Returns:
        ``(P, 4)`` xyxy, pixels of the image at ``new_size``.
    """
    height, width = (new_size.to(boxes) / size.to(boxes)).unbind()
    return boxes * torch.stack((width, height, width, height))


def merge_proposals(
    of_scales: Sequence[Proposals], size: tuple[int, int], nms_thresh: float, post_nms_topk: int
) -> Proposals:
    """Merge the proposals of several scales for one image by NMS over all of them.

    Args:
        of_scales: proposals of each scale, all in pixels of the network input.
        size: height and width of the image, network-input pixels.
        nms_thresh: IoU above which the lower-scored proposal is removed, also across scales.
        post_nms_topk: proposals kept.

    Returns:
        At most ``post_nms_topk`` proposals, best first, clipped to the image.
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
    """Propose on a batch at every scale, and merge the proposals of each image.

    Args:
        propose: returns proposals for every image of a batch, in pixels of that batch's images.
        images: a batch.
        scales: factors on the sides of the network input; for ``(1.0,)`` the result is that of ``propose``.
        nms_thresh: see :func:`merge_proposals`.
        post_nms_topk: see :func:`merge_proposals`.

    Returns:
        N proposals in pixels of ``images``, best first. ``levels`` is ``k - log2(scale)``, rounded: p4 of an image at
        twice the size has the stride of p3 in pixels of ``images``.
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

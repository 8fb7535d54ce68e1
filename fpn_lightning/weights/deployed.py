"""Expresses a detector as one graph, from the pixels of an image to boxes, for ONNX and ``torch.export``.

In an exported graph, Python code cannot branch on tensor values. Therefore this file implements prediction a second
time, for a single image: resize, normalise, pad, propose, detect, and map the boxes back to the image. Layers, anchors
and box coders are those of the trained detector.

Shape shorthand: H x W image size, h x w size of the network input, P proposals, R regions, K classes, D detections.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms, roi_align, roi_pool

from fpn_lightning.data.transforms import ResizeAndFlip
from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones.folding import FoldedConv2d, pad_multiples
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.rpn import RPN

NEVER = -1e30  # score that marks a box as removed
OUTPUTS = ("boxes", "scores", "labels")


class Deployed(nn.Module):
    """Turns the pixels of one image into boxes, scores and labels.

    Args:
        detector: a Faster R-CNN or an RPN, in float32.
        transform: gives the limits on the sides of the resized image, and the rounding of these sides.
        size_divisor: height and width of the network input are padded to a multiple of this number.
        top_k: maximum number of proposals, if the detector is an RPN.

    Raises:
        InputError: if ``image_scales`` of the detector is not ``(1.0,)``.
    """

    def __init__(self, detector: Detector, transform: ResizeAndFlip, size_divisor: int, top_k: int = 1000) -> None:
        super().__init__()
        if detector.image_scales != (1.0,):
            raise InputError(
                "A model with model.detector.image_scales cannot be exported, because a graph has one image scale. "
                "Export a model without image_scales."
            )
        assert detector.rpn is not None
        self.backbone, self.pyramid = detector.backbone, detector.pyramid
        for part in self.backbone.modules():
            if isinstance(part, FoldedConv2d) and part.pad is not None:
                # pad_multiples can be used, because the sides of the padded network input are multiples of all strides.
                part.pad = pad_multiples
        self.rpn: RPN = detector.rpn
        self.roi_heads: RoIHeads | None = detector.roi_heads
        self.count = top_k if detector.roi_heads is None else detector.eval_proposals
        self.limits = transform.short_sides[-1], transform.max_side
        self.rounds = transform.rounding == "nearest"
        self.size_divisor = size_divisor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects, or propose boxes if the detector is an RPN.

        Args:
            image: uint8 ``(H, W, 3)`` RGB.

        Returns:
            ``boxes`` float32 ``(D, 4)`` xyxy, pixels of ``image``; ``scores`` float32 ``(D,)``, descending; ``labels``
            int64 ``(D,)`` in [0, K), all 0 if the boxes are proposals.
        """
        old = image.shape[0], image.shape[1]
        new = self._scaled(old[0], old), self._scaled(old[1], old)
        maps = self.pyramid(self.backbone.features(self._network_input(resized(image, old, new), new)))
        size = torch.stack([torch.scalar_tensor(side, dtype=torch.float32) for side in new])
        boxes, logits = self._propose(maps, size)
        if self.roi_heads is None:
            scores, labels = logits.sigmoid(), torch.zeros_like(logits, dtype=torch.int64)
        else:
            boxes, scores, labels = self._detect(self.roi_heads, maps, boxes, size)
        size_orig = torch.stack([torch.scalar_tensor(side, dtype=torch.float32) for side in old])
        boxes = clipped(boxes * (size_orig / size).flip(0).repeat(2), size_orig)
        return boxes, scores, labels

    def _scaled(self, side: int, size: tuple[int, int]) -> int:
        """Compute the length of a side after resizing, like ``data.transforms.scaled_size``, in integer arithmetic."""
        short, long = torch.sym_min(*size), torch.sym_max(*size)
        lengths = [
            (2 * side * limit + reference) // (2 * reference) if self.rounds else (side * limit) // reference
            for limit, reference in zip(self.limits, (short, long), strict=True)
        ]
        return torch.sym_max(1, torch.sym_min(*lengths))  # type: ignore[return-value]  # SymInt behaves like int

    def _network_input(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Normalise pixels ``(h, w, 3)`` like ``Backbone.normalize``, and pad them at the bottom and right."""
        pixels = pixels.permute(2, 0, 1)[None]
        if self.backbone.convention != "torchvision":
            pixels = pixels.flip(1)
        pixels = (pixels - self.backbone.get_buffer("pixel_mean")) / self.backbone.get_buffer("pixel_std")
        bottom, right = (-side % self.size_divisor for side in size)
        return F.pad(pixels, (0, right, 0, bottom))

    def _propose(self, maps: dict[str, Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the boxes ``(P, 4)`` and logits ``(P,)`` of the proposals, like ``RPN.predict``."""
        outputs = self.rpn(maps)
        of_levels = []
        for logits, deltas, anchors in zip(outputs.logits, outputs.deltas, outputs.anchors, strict=True):
            scores, top = logits[0].topk(torch.sym_min(self.rpn.pre_nms_topk, logits.shape[1]))
            boxes = clipped(self.rpn.box_coder.decode(anchors[top], deltas[0][top]), size)
            large = ((boxes[:, 2:] - boxes[:, :2]) > self.rpn.min_size).all(dim=1)
            # Boxes that are too small stay, with score NEVER: the number of boxes must not depend on tensor values.
            scores = scores.where(large, NEVER)
            kept = large & kept_by_nms(boxes, scores, self.rpn.nms_thresh)
            of_levels.append((boxes, scores.where(kept, NEVER)))
        boxes, scores = (torch.cat(parts) for parts in zip(*of_levels, strict=True))
        best = best_of(scores, min(self.rpn.post_nms_topk, self.count))
        return boxes[best], scores[best]

    def _detect(
        self, heads: RoIHeads, maps: dict[str, Tensor], proposals: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the boxes, scores and labels of the detections, like ``RoIHeads.predict``."""
        logits, deltas = heads.predictor(heads.box_head(pooled(heads.pooler, maps, proposals)))
        probabilities = logits.softmax(dim=1)[:, : heads.num_classes]
        boxes = clipped(heads.box_coder.decode(proposals, deltas).reshape(-1, heads.num_classes, 4), size)
        large = ((boxes[..., 2:] - boxes[..., :2]) > heads.min_size).all(dim=2)
        region, labels = (large & (probabilities > heads.score_thresh)).nonzero().unbind(dim=1)
        boxes, scores = boxes[region, labels], probabilities[region, labels]
        # One NMS call handles all classes. The boxes of each class are shifted to a separate cell of a square grid, so
        # boxes of different classes do not overlap. With all cells in one line, the largest coordinates would be too
        # large for the precision of float32.
        columns = math.ceil(math.sqrt(heads.num_classes))
        cells = torch.stack((labels % columns, torch.div(labels, columns, rounding_mode="floor")), dim=1)
        shifted = boxes + (cells.to(boxes.dtype) * (size.max() + 1)).repeat(1, 2)
        kept = kept_by_nms(shifted, scores, heads.nms_thresh)
        best = best_of(scores.where(kept, NEVER), heads.detections_per_image)
        return boxes[best], scores[best], labels[best]


def kept_by_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Run NMS on boxes ``(P, 4)`` and return a mask of the kept boxes, bool ``(P,)``."""
    # torch.export assumes that NMS keeps at least two boxes; to make this true, two boxes outside the image are added.
    # NMS always keeps both added boxes, because they overlap no other box.
    two = boxes.new_tensor([[-4.0, -4.0, -3.0, -3.0], [-2.0, -2.0, -1.0, -1.0]])
    scores = F.pad(scores, (0, 2), value=NEVER)
    kept = torch.zeros_like(scores).index_fill(0, nms(torch.cat((boxes, two)), scores, threshold), 1.0)
    return kept[:-2] > 0


def best_of(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` highest scores, highest first; boxes with score ``NEVER`` are left out."""
    values, order = scores.sort(descending=True)
    return order[:count][(values[:count] > NEVER).nonzero().flatten()]


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes ``(..., 4)`` xyxy to an image of ``size`` (height, width)."""
    return boxes.clamp(min=0).minimum(size.flip(0).repeat(2))


def pooled(pooler: RoIPooler, maps: dict[str, Tensor], boxes: Tensor) -> Tensor:
    """Pool the regions ``(R, 4)`` of one image to features ``(R, d, S, S)``, like ``RoIPooler``."""
    levels = pooler.levels_of(boxes)
    regions = F.pad(boxes, (1, 0))  # column 0: index of the image in the batch, always 0
    results, idxs = [], []
    for level, (name, stride) in enumerate(zip(pooler.names, pooler.strides, strict=True), start=pooler.min_level):
        own = (levels == level).nonzero().flatten()
        inputs = (maps[name], regions[own], pooler.resolution, 1 / stride)
        if pooler.op == "pool":
            results.append(roi_pool(*inputs))
        else:
            results.append(roi_align(*inputs, pooler.sampling_ratio, aligned=pooler.aligned))
        idxs.append(own)
    return torch.cat(results)[torch.cat(idxs).argsort()]


def resized(image: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize an image bilinearly, with the 11-bit weights and the rounding steps of OpenCV for uint8 images.

    Args:
        image: uint8 ``(H, W, 3)``.
        old: size of ``image``, ``(H, W)``.
        new: size of the result, ``(h, w)``.

    Returns:
        float32 ``(h, w, 3)``; all values are whole numbers.
    """
    (top, bottom, low), (left, right, across) = (_neighbours(*sides) for sides in zip(old, new, strict=True))
    pixels = image.float()
    rows = pixels[:, left] * (2048 - across)[:, None] + pixels[:, right] * across[:, None]
    rows = (rows / 16).floor().double()  # float64, because float32 would round the products in the next lines
    low = low.double()[:, None, None]
    upper, lower = (rows[top] * (2048 - low) / 65536).floor(), (rows[bottom] * low / 65536).floor()
    return ((upper + lower + 2) / 4).floor().float()


def _neighbours(old: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the two input pixels of each output pixel, for linear interpolation along one side.

    Also return the weight of the second input pixel, a whole number from 0 to 2048, where 2048 means a weight of 1.
    """
    last = torch.scalar_tensor(old - 1, dtype=torch.float32)
    scale = 1 / (torch.scalar_tensor(new, dtype=torch.float64) / torch.scalar_tensor(old, dtype=torch.float64))
    place = ((torch.arange(new, dtype=torch.float64) + 0.5) * scale - 0.5).float()
    first = place.floor()
    weight = ((place - first) * 2048).round()
    return first.clamp(min=0).minimum(last).long(), (first + 1).clamp(min=0).minimum(last).long(), weight

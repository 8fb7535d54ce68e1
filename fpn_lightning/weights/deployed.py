"""A detector as one graph, from the pixels of an image to its boxes, for ONNX and ``torch.export``.

The graph has no Python branches on data, so it does the steps of prediction once more for a single image: it resizes,
normalises and pads it, proposes, detects, and maps the boxes back. Layers, anchors and box coder are the model's own.

Shape shorthand: H x W size of the image, h x w of the network input, P proposals, R regions, K classes, D detections.
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
from fpn_lightning.models.roi_pooler import RoIPooler, assign_boxes_to_levels
from fpn_lightning.models.rpn import RPN

NEVER = -1e30  # score of a box that is left out
OUTPUTS = ("boxes", "scores", "labels")


class Deployed(nn.Module):
    """Turns the pixels of one image into boxes, scores and labels.

    Args:
        detector: a Faster R-CNN or an RPN, in float32.
        transform: says how images are resized.
        size_divisor: the network input is padded to a multiple of it.
        top_k: largest number of proposals of an RPN.

    Raises:
        InputError: the detector has ``image_scales``.
    """

    def __init__(self, detector: Detector, transform: ResizeAndFlip, size_divisor: int, top_k: int = 1000) -> None:
        super().__init__()
        if detector.image_scales != (1.0,):
            raise InputError("A model with model.detector.image_scales cannot be exported: it is for one scale.")
        assert detector.rpn is not None
        self.backbone, self.pyramid = detector.backbone, detector.pyramid
        for part in self.backbone.modules():
            if isinstance(part, FoldedConv2d) and part.pad is not None:
                part.pad = pad_multiples  # the network input is padded to a multiple of all strides
        self.rpn: RPN = detector.rpn
        self.roi_heads: RoIHeads | None = detector.roi_heads
        self.count = top_k if detector.roi_heads is None else detector.eval_proposals
        self.limits = transform.short_sides[-1], transform.max_side
        self.rounds = transform.rounding == "nearest"
        self.size_divisor = size_divisor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict.

        Args:
            image: uint8 ``(H, W, 3)`` RGB.

        Returns:
            ``boxes`` float32 ``(D, 4)`` xyxy, pixels of ``image``; ``scores`` float32 ``(D,)``, descending; ``labels``
            int64 ``(D,)`` in [0, K), 0 for proposals.
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
        """The new length of a side, as :func:`fpn_lightning.data.transforms.scaled_size`, in whole numbers."""
        short, long = torch.sym_min(*size), torch.sym_max(*size)
        lengths = [
            (2 * side * limit + reference) // (2 * reference) if self.rounds else (side * limit) // reference
            for limit, reference in zip(self.limits, (short, long), strict=True)
        ]
        return torch.sym_max(1, torch.sym_min(*lengths))  # type: ignore[return-value]  # a SymInt counts as an int

    def _network_input(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Normalise ``(h, w, 3)`` as :meth:`fpn_lightning.models.backbones.base.Backbone.normalize`, and pad it."""
        pixels = pixels.permute(2, 0, 1)[None]
        if self.backbone.convention != "torchvision":
            pixels = pixels.flip(1)
        pixels = (pixels - self.backbone.get_buffer("pixel_mean")) / self.backbone.get_buffer("pixel_std")
        bottom, right = (-side % self.size_divisor for side in size)
        return F.pad(pixels, (0, right, 0, bottom))

    def _propose(self, maps: dict[str, Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(P, 4)`` and logits ``(P,)``, as :meth:`fpn_lightning.models.rpn.RPN.predict`."""
        outputs = self.rpn(maps)
        of_levels = []
        for logits, deltas, anchors in zip(outputs.logits, outputs.deltas, outputs.anchors, strict=True):
            scores, top = logits[0].topk(torch.sym_min(self.rpn.pre_nms_topk, logits.shape[1]))
            boxes = clipped(self.rpn.box_coder.decode(anchors[top], deltas[0][top]), size)
            large = ((boxes[:, 2:] - boxes[:, :2]) > self.rpn.min_size).all(dim=1)
            scores = scores.where(large, NEVER)  # removes nothing yet, so that lengths stay known
            kept = large & kept_by_nms(boxes, scores, self.rpn.nms_thresh)
            of_levels.append((boxes, scores.where(kept, NEVER)))
        boxes, scores = (torch.cat(parts) for parts in zip(*of_levels, strict=True))
        best = best_of(scores, min(self.rpn.post_nms_topk, self.count))
        return boxes[best], scores[best]

    def _detect(
        self, heads: RoIHeads, maps: dict[str, Tensor], proposals: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels, as :meth:`fpn_lightning.models.roi_heads.RoIHeads.predict`."""
        logits, deltas = heads.predictor(heads.box_head(pooled(heads.pooler, maps, proposals)))
        probabilities = logits.softmax(dim=1)[:, : heads.num_classes]
        boxes = clipped(heads.box_coder.decode(proposals, deltas).reshape(-1, heads.num_classes, 4), size)
        large = ((boxes[..., 2:] - boxes[..., :2]) > heads.min_size).all(dim=2)
        region, labels = (large & (probabilities > heads.score_thresh)).nonzero().unbind(dim=1)
        boxes, scores = boxes[region, labels], probabilities[region, labels]
        # One call for all classes, whose boxes are set apart on a square grid: in a row, the last ones would be so far
        # off that float32 rounds them.
        columns = math.ceil(math.sqrt(heads.num_classes))
        places = torch.stack((labels % columns, torch.div(labels, columns, rounding_mode="floor")), dim=1)
        apart = boxes + (places.to(boxes.dtype) * (size.max() + 1)).repeat(1, 2)
        kept = kept_by_nms(apart, scores, heads.nms_thresh)
        best = best_of(scores.where(kept, NEVER), heads.detections_per_image)
        return boxes[best], scores[best], labels[best]


def kept_by_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Whether each box ``(P, 4)`` is kept: bool ``(P,)``."""
    # torch.export takes it for granted that two boxes are kept: add two that nothing overlaps.
    two = boxes.new_tensor([[-4.0, -4.0, -3.0, -3.0], [-2.0, -2.0, -1.0, -1.0]])
    scores = F.pad(scores, (0, 2), value=NEVER)
    kept = torch.zeros_like(scores).index_fill(0, nms(torch.cat((boxes, two)), scores, threshold), 1.0)
    return kept[:-2] > 0


def best_of(scores: Tensor, count: int) -> Tensor:
    """Places of the best ``count`` scores, or of all that are above ``NEVER``; best first."""
    values, order = scores.sort(descending=True)
    return order[:count][(values[:count] > NEVER).nonzero().flatten()]


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes ``(..., 4)`` xyxy to an image of ``size`` (height, width)."""
    return boxes.clamp(min=0).minimum(size.flip(0).repeat(2))


def pooled(pooler: RoIPooler, maps: dict[str, Tensor], boxes: Tensor) -> Tensor:
    """Pool regions ``(R, 4)`` of one image: ``(R, d, S, S)``, as :class:`fpn_lightning.models.roi_pooler.RoIPooler`."""
    levels = assign_boxes_to_levels(
        boxes, pooler.min_level, pooler.max_level, pooler.canonical_size, pooler.canonical_level
    )
    regions = F.pad(boxes, (1, 0))  # the index of the image, 0
    results, places = [], []
    for level, name, stride in zip(range(pooler.min_level, 99), pooler.names, pooler.strides, strict=False):
        own = (levels == level).nonzero().flatten()
        inputs = (maps[name], regions[own], pooler.resolution, 1 / stride)
        if pooler.op == "pool":
            results.append(roi_pool(*inputs))
        else:
            results.append(roi_align(*inputs, pooler.sampling_ratio, aligned=pooler.aligned))
        places.append(own)
    return torch.cat(results)[torch.cat(places).argsort()]


def resized(image: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize as OpenCV resizes uint8 images bilinearly: weights of 11 bits, and the same roundings in between.

    Args:
        image: uint8 ``(H, W, 3)``.
        old: H and W.
        new: h and w.

    Returns:
        float32 ``(h, w, 3)``, whole numbers.
    """
    (top, bottom, low), (left, right, across) = (_neighbours(*sides) for sides in zip(old, new, strict=True))
    pixels = image.float()
    rows = pixels[:, left] * (2048 - across)[:, None] + pixels[:, right] * across[:, None]
    rows = (rows / 16).floor().double()  # float32 would round the products below
    low = low.double()[:, None, None]
    upper, lower = (rows[top] * (2048 - low) / 65536).floor(), (rows[bottom] * low / 65536).floor()
    return ((upper + lower + 2) / 4).floor().float()


def _neighbours(old: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each new pixel of a side: the old pixels before and after it, and the weight of the second, of 2048."""
    last = torch.scalar_tensor(old - 1, dtype=torch.float32)
    scale = 1 / (torch.scalar_tensor(new, dtype=torch.float64) / torch.scalar_tensor(old, dtype=torch.float64))
    place = ((torch.arange(new, dtype=torch.float64) + 0.5) * scale - 0.5).float()
    first = place.floor()
    weight = ((place - first) * 2048).round()
    return first.clamp(min=0).minimum(last).long(), (first + 1).clamp(min=0).minimum(last).long(), weight

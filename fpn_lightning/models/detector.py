"""The detector: backbone -> pyramid -> RPN and/or RoI heads, or mask proposals (FPN §3, §4, §6), composed once.

Shape shorthand: N images, d channels of every map, H_k x W_k size of level k, K foreground classes.

A head that is not wanted is not built: an RPN alone (Table 1) has no RoI heads, Fast R-CNN on fixed proposals (Table 2)
has no RPN, Faster R-CNN has both on one pyramid. Maps are computed once an image; heads make losses or predictions of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from fpn_lightning.errors import InputError
from fpn_lightning.mask_structures import MaskProposals
from fpn_lightning.models.anchors import AnchorConvention, AnchorGenerator
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.box_head import BoxHead, Conv5Head, TwoFCHead
from fpn_lightning.models.image_pyramid import check_scales, propose_on_scales
from fpn_lightning.models.masks.proposer import MaskProposer
from fpn_lightning.models.pyramids import FPN, Pyramid, SingleMap, level_of
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.rpn import RPN
from fpn_lightning.structures import Detections, ImageBatch, Proposals

HeadName = Literal["2fc", "conv5"]  # as the column "head" of Tables 2 and 3 has it
MakePyramid = Callable[[dict[str, int], dict[str, int], int], Pyramid]
MakeRPN = Callable[[int, AnchorGenerator], RPN]
MakeRoIPooler = Callable[[dict[str, int], int, float], RoIPooler]
MakeRoIHeads = Callable[[RoIPooler, BoxHead, int], RoIHeads]
MakeMasks = Callable[[int, dict[str, int], float], MaskProposer]


@dataclass(frozen=True)
class Scale:
    """Lengths that scale with the size of the images; a preset sets all of them in one group."""

    base_anchor_size: float = 32
    """Size of the smallest anchors, px of the network input (FPN §4.1: area 32²); of objects on the finest level for
    mask proposals (FPN §6)."""
    canonical_size: float = 224
    """Size of a box that is pooled from p4, px of the network input (FPN Eq. 1)."""
    area_thresholds: tuple[float, float] = (32**2, 96**2)
    """Areas that separate small from medium and medium from large objects, px² of the image file (COCO's)."""


@dataclass(frozen=True)
class Anchors:
    """Which anchors each map carries (FPN §4.1)."""

    octaves: Sequence[Sequence[int]] = ((0,), (1,), (2,), (3,), (4,))
    """For each map, finest first: octave i is an anchor of size ``scale.base_anchor_size * 2**i``."""
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    """Height / width."""
    convention: AnchorConvention = "exact"
    """``exact``, or ``torchvision`` for weights that were trained there."""


@final  # a plain group of a configuration: no class_path, and an override may set a single key of it
class Detector(nn.Module):
    """Backbone, pyramid and the heads that read its maps.

    Args:
        backbone: gives c2..c5.
        pyramid: called with what the backbone declares: ``pyramid(channels, strides, channels_of_maps)``.
        rpn: called with ``rpn(channels, anchor_generator)``; null: not built.
        roi_heads: called with ``roi_heads(pooler, box_head, num_classes)``; null: not built.
        masks: mask proposals, called with ``masks(channels, strides, base_anchor_size)``; null: not built.
        roi_pooler: called with ``roi_pooler(strides, resolution, canonical_size)``.
        box_head: ``2fc``, or ``conv5``, the backbone's last stage on c4.
        fc_width: outputs of the two fully connected layers of ``2fc``.
        channels: channels d of every map (256 in the paper, 128 for masks).
        num_classes: K, linked from ``data.num_classes``.
        anchors: of the RPN.
        scale: lengths that scale with the size of the images.
        image_scales: the RPN proposes on the image at each of these scales (Figure 1(a)); training uses 1 alone.
        eval_proposals: the best so many proposals of the RPN go to the RoI heads at test time (FPN §5.2: 1000).

    Raises:
        InputError: parts that do not fit together, or a value that is out of range, by its key.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: MakePyramid = FPN,
        rpn: MakeRPN | None = RPN,
        roi_heads: MakeRoIHeads | None = RoIHeads,
        masks: MakeMasks | None = None,
        roi_pooler: MakeRoIPooler = RoIPooler,
        box_head: HeadName = "2fc",
        fc_width: int = 1024,
        channels: int = 256,
        num_classes: int = 80,
        anchors: Anchors = Anchors(),
        scale: Scale = Scale(),
        image_scales: Sequence[float] = (1.0,),
        eval_proposals: int = 1000,
    ) -> None:
        super().__init__()
        if eval_proposals < 1:
            raise InputError(f"model.detector.eval_proposals is {eval_proposals}; it has to be at least 1")
        self.scale = scale
        self.image_scales = check_scales(image_scales)
        self.eval_proposals = eval_proposals
        self.backbone = backbone
        self.pyramid = pyramid(backbone.channels, backbone.strides, channels)
        # The head before the RPN: a run draws its initial weights in this order, and seeds stand for these numbers.
        head = self._box_head(box_head, fc_width) if roi_heads else None
        backbone.keep(self.pyramid.used)
        strides, channels = self.pyramid.strides, self.pyramid.out_channels
        self.rpn = self.roi_heads = self.masks = None
        if rpn is not None:
            sizes = [[scale.base_anchor_size * 2**octave for octave in octaves] for octaves in anchors.octaves]
            self.rpn = rpn(channels, AnchorGenerator(strides, sizes, anchors.ratios, anchors.convention))
        if roi_heads is not None and head is not None:
            pooler = roi_pooler(strides, head.resolution, scale.canonical_size)
            self.roi_heads = roi_heads(pooler, head, num_classes)
        if masks is not None:
            self.masks = masks(channels, strides, scale.base_anchor_size)

    def _box_head(self, name: HeadName, fc_width: int) -> BoxHead:
        """The box head that fits the pyramid.

        The conv5 stage is the backbone's own, with its pre-trained weights, and from here on belongs to the head.
        """
        if name == "2fc":
            return TwoFCHead(self.pyramid.out_channels, fc_width)
        top = list(self.backbone.channels)[-1]
        if not isinstance(self.pyramid, SingleMap) or self.pyramid.level != level_of(top) - 1:
            raise InputError(
                f"model.detector.box_head: 'conv5' runs the stage of {top} on the map before it, c{level_of(top) - 1}, "
                f"alone; the pyramid is {type(self.pyramid).__name__} with maps {', '.join(self.pyramid.strides)}. Use "
                "SingleMap of that level, or '2fc'."
            )
        out_features = self.backbone.channels[top]
        return Conv5Head(self.backbone.take_stage(top), out_features)

    def require(self, user: str, *heads: str) -> None:
        """Check that exactly these of ``rpn``, ``roi_heads`` and ``masks`` are built.

        Raises:
            InputError: naming the key. A head that ``user`` never trains costs time, and DDP waits for its gradients.
        """
        for head in ("rpn", "roi_heads", "masks"):
            built = getattr(self, head) is not None
            if built and head not in heads:
                raise InputError(f"model.detector.{head}: {user} does not use it. Set it to null.")
            if not built and head in heads:
                raise InputError(f"model.detector.{head} is null, but {user} needs it.")

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """The maps that all heads read: ``{"p2": (N, d, H_2, W_2), ...}``, finest first."""
        return self.pyramid(self.backbone(images))

    def propose(self, images: ImageBatch) -> list[Proposals]:
        """Proposals of every image, network-input pixels, best first, from all ``image_scales`` together."""
        rpn = self.rpn
        assert rpn is not None
        return propose_on_scales(
            lambda scaled: rpn.predict(rpn(self(scaled)), scaled.sizes),
            images,
            self.image_scales,
            rpn.nms_thresh,
            rpn.post_nms_topk,
        )

    def detect(self, images: ImageBatch, proposals: Sequence[Proposals]) -> list[Detections]:
        """Detections of every image from fixed proposals, network-input pixels, best first."""
        assert self.roi_heads is not None
        return self.roi_heads.predict(self(images), proposals, images.sizes)

    def propose_and_detect(self, images: ImageBatch) -> tuple[list[Proposals], list[Detections]]:
        """All proposals of every image and the detections from the best of them, of one forward pass."""
        assert self.rpn is not None
        assert self.roi_heads is not None
        maps = self(images)
        proposals = self.rpn.predict(self.rpn(maps), images.sizes)
        count = self.eval_proposals
        best = [Proposals(p.boxes[:count], p.objectness[:count], p.levels[:count]) for p in proposals]
        return proposals, self.roi_heads.predict(maps, best, images.sizes)

    def propose_masks(self, images: ImageBatch) -> list[MaskProposals]:
        """Mask proposals of every image, network-input pixels, best first."""
        assert self.masks is not None
        return self.masks.predict(self(images), images.sizes)

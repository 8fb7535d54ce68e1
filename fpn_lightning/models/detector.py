"""The detector: a backbone, a pyramid, and heads that read the pyramid's maps (FPN §3, §4, §6).

Shape shorthand: N images, d channels of every map, H_k x W_k size of level k, K foreground classes.

A detector has only the heads that an experiment needs: an RPN (Table 1), RoI heads for Fast R-CNN on fixed proposals
(Table 2), an RPN and RoI heads for Faster R-CNN, or a mask proposer (Table 6). All heads read the same maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from fpn_lightning.errors import InputError
from fpn_lightning.mask_structures import MaskProposals
from fpn_lightning.models.anchors import AnchorConvention, AnchorGenerator
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.box_head import BoxHead, Conv5Head, TwoFCHead, check_box_head
from fpn_lightning.models.image_pyramid import check_scales, propose_on_scales
from fpn_lightning.models.masks.proposer import MaskProposer
from fpn_lightning.models.pyramids import FPN, Pyramid, SingleMap, check_pyramid, level_of
from fpn_lightning.models.roi_heads import RoIHeads
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.rpn import RPN
from fpn_lightning.structures import Detections, ImageBatch, Proposals

HeadName = Literal["2fc", "conv5"]  # the names in column "head" of the paper's Tables 2 and 3
MakePyramid = Callable[[dict[str, int], dict[str, int], int], Pyramid]
MakeRPN = Callable[[int, AnchorGenerator], RPN]
MakeRoIPooler = Callable[[dict[str, int], int, float], RoIPooler]
MakeRoIHeads = Callable[[RoIPooler, BoxHead, int], RoIHeads]
MakeMasks = Callable[[int, dict[str, int], float], MaskProposer]


@dataclass(frozen=True)
class Scale:
    """Settings in px or px² that have to fit the size of the images.

    The defaults fit COCO images with a shorter side of 800 px, as in the paper. Presets for smaller images set smaller
    values.
    """

    base_anchor_size: float = 32
    """Size (√area) of the smallest anchors, px of the network input (FPN §4.1). For mask proposals, the size of the
    objects that the finest level predicts (FPN §6)."""
    canonical_size: float = 224
    """Smallest size (√area) of boxes that are pooled from p4, px of the network input (FPN Eq. 1)."""
    area_thresholds: tuple[float, float] = (32**2, 96**2)
    """Areas that separate small from medium objects and medium from large objects, px² of the image file. The defaults
    are COCO's."""


@dataclass(frozen=True)
class Anchors:
    """The anchors of each map (FPN §4.1)."""

    octaves: Sequence[Sequence[int]] = ((0,), (1,), (2,), (3,), (4,))
    """One list of octaves for each map, finest map first; octave i gives anchors of size
    ``scale.base_anchor_size * 2**i``."""
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    convention: AnchorConvention = "exact"
    """``exact``, or ``torchvision`` for weights that were trained with torchvision's anchors."""


# For a class marked @final, jsonargparse needs no class_path. An override can then set one key of the detector without
# repeating the other keys.
@final
class Detector(nn.Module):
    """A backbone, a pyramid and the heads that read its maps.

    Args:
        backbone: computes c2..c5.
        pyramid: class of the pyramid, called as ``pyramid(backbone_channels, backbone_strides, channels)``.
        rpn: class of the RPN, called as ``rpn(channels, anchor_generator)``; null for no RPN.
        roi_heads: class of the RoI heads, called as ``roi_heads(pooler, box_head, num_classes)``; null for no RoI
            heads.
        masks: class of the mask proposer, called as ``masks(channels, strides, base_anchor_size)``; null for no mask
            proposals.
        roi_pooler: class of the RoI pooler, called as ``roi_pooler(strides, resolution, canonical_size)``.
        box_head: ``2fc`` (two fully connected layers) or ``conv5`` (the backbone's last stage, run on regions of c4).
        fc_width: number of outputs of each layer of ``2fc``.
        channels: channels d of every map (in the paper, 256 for boxes and 128 for masks).
        num_classes: K; the command line sets ``num_classes`` to ``data.num_classes``.
        anchors: anchors of the RPN.
        scale: size of the smallest anchors, canonical size of RoI pooling and area thresholds, which have to fit the
            size of the images.
        image_scales: factors by which each image is resized at test time. The RPN's proposals at all scales are merged
            (FPN Fig. 1(a)).
        eval_proposals: number of the RPN's best proposals that the RoI heads get at test time (FPN §5.2: 1000).
        channels_last: store maps with channels innermost, which is faster for some backbones and devices. The
            results differ only by rounding.

    Raises:
        InputError: if parts of the detector do not fit together, or if a value is out of range; the message names the
            config key.
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
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if eval_proposals < 1:
            raise InputError(f"model.detector.eval_proposals is {eval_proposals}; it has to be at least 1.")
        self.scale = scale
        self.image_scales = check_scales(image_scales)
        if self.image_scales != (1.0,) and (roi_heads is not None or masks is not None):
            raise InputError(
                "model.detector.image_scales needs a detector with only an RPN. Set roi_heads and masks to null, or "
                "remove image_scales."
            )
        self.eval_proposals = eval_proposals
        self.backbone = backbone
        self.pyramid = pyramid(backbone.channels, backbone.strides, channels)
        if undeclared := [name for name in ("strides", "out_channels", "used") if not hasattr(self.pyramid, name)]:
            raise InputError(
                f"model.detector.pyramid: {type(self.pyramid).__name__} does not set {', '.join(undeclared)}. Set the "
                "attributes of fpn_lightning.models.pyramids.Pyramid."
            )
        # Keep this order, box head before RPN: it determines the initial weights for a given seed.
        head = self._box_head(box_head, fc_width) if roi_heads else None
        backbone.keep(self.pyramid.used)
        check_pyramid(self.pyramid, backbone.channels, backbone.strides)
        strides, channels = self.pyramid.strides, self.pyramid.out_channels
        self.rpn = self.roi_heads = self.masks = None
        if rpn is not None:
            sizes = [[scale.base_anchor_size * 2**octave for octave in octaves] for octaves in anchors.octaves]
            self.rpn = rpn(channels, AnchorGenerator(strides, sizes, anchors.ratios, anchors.convention))
        if roi_heads is not None and head is not None:
            pooler = roi_pooler(strides, head.resolution, scale.canonical_size)
            check_box_head(head, channels)
            self.roi_heads = roi_heads(pooler, head, num_classes)
        if masks is not None:
            self.masks = masks(channels, strides, scale.base_anchor_size)
        self._compiled: Callable[[Tensor], dict[str, Tensor]] | None = None
        if channels_last:
            # The weights of a convolution determine the memory format of its output. Loading or moving weights keeps
            # their memory format.
            self.to(memory_format=torch.channels_last)

    def _box_head(self, name: HeadName, fc_width: int) -> BoxHead:
        """Build the box head; for ``conv5``, move the backbone's last stage from the backbone into the box head."""
        if name == "2fc":
            return TwoFCHead(self.pyramid.out_channels, fc_width)
        top = list(self.backbone.channels)[-1]
        if not isinstance(self.pyramid, SingleMap) or self.pyramid.level != level_of(top) - 1:
            raise InputError(
                f"model.detector.box_head 'conv5' reads the single map c{level_of(top) - 1}, but the pyramid is "
                f"{type(self.pyramid).__name__} with maps {', '.join(self.pyramid.strides)}. Set pyramid to SingleMap "
                f"with level {level_of(top) - 1}, or box_head to '2fc'."
            )
        out_features = self.backbone.channels[top]
        return Conv5Head(self.backbone.take_stage(top), out_features)

    def require(self, user: str, *heads: str) -> None:
        """Check that the detector has the given heads (among ``rpn``, ``roi_heads``, ``masks``) and no other head.

        ``user`` is the name of the LightningModule that trains the detector. A head that this module does not train
        would cost time, and DDP would wait for the gradients of the head.

        Raises:
            InputError: if the detector lacks one of ``heads``, or has a head that is not among ``heads``; the message
                names the config key.
        """
        for head in ("rpn", "roi_heads", "masks"):
            built = getattr(self, head) is not None
            if built and head not in heads:
                raise InputError(f"model.detector.{head}: {user} does not use this head. Set {head} to null.")
            if not built and head in heads:
                raise InputError(f"model.detector.{head} is null, but {user} needs this head.")

    def forward(self, images: ImageBatch) -> dict[str, Tensor]:
        """Compute the maps that all heads read: ``{"p2": (N, d, H_2, W_2), ...}``, finest first."""
        pixels = self.backbone.normalize(images)
        return self._maps(pixels) if self._compiled is None else self._compiled(pixels)

    def _maps(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.pyramid(self.backbone.features(pixels))

    def compile_maps(self, constant_weights: bool) -> None:
        """Make the next forward pass compile the backbone and the pyramid for all image sizes, but not the heads.

        Args:
            constant_weights: compile the weights as constants. The maps are then computed faster, but later changes of
                the weights have no effect.
        """
        from torch._inductor import config as inductor  # imported here, because this import takes two seconds

        compiled = torch.compile(self._maps, dynamic=True)

        def run(pixels: Tensor) -> dict[str, Tensor]:
            # Switch off inductor's layout optimisation unless the weights are compiled as constants: with variable
            # weights, layout optimisation makes oneDNN's convolutions slower.
            with inductor.patch(freezing=constant_weights, layout_optimization=constant_weights):
                maps: dict[str, Tensor] = compiled(pixels)
                return maps

        self._compiled = run

    def propose(self, images: ImageBatch) -> list[Proposals]:
        """Propose boxes in every image, in network-input pixels, best first; merge the proposals of all scales."""
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
        """Detect objects in every image from fixed proposals: boxes in network-input pixels, best first."""
        assert self.roi_heads is not None
        return self.roi_heads.predict(self(images), proposals, images.sizes)

    def propose_and_detect(self, images: ImageBatch) -> tuple[list[Proposals], list[Detections]]:
        """Return all proposals, and the detections from the ``eval_proposals`` best proposals of each image."""
        assert self.rpn is not None
        assert self.roi_heads is not None
        maps = self(images)
        proposals = self.rpn.predict(self.rpn(maps), images.sizes)
        count = self.eval_proposals
        best = [Proposals(p.boxes[:count], p.objectness[:count], p.levels[:count]) for p in proposals]
        return proposals, self.roi_heads.predict(maps, best, images.sizes)

    def propose_masks(self, images: ImageBatch) -> list[MaskProposals]:
        """Propose masks in every image, with windows in network-input pixels, best first."""
        assert self.masks is not None
        return self.masks.predict(self(images), images.sizes)

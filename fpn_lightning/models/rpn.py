"""Region proposal network on a feature pyramid (Faster R-CNN §3.1, FPN §4.1).

Shape shorthand: N images, L levels, A anchors per cell, H_l x W_l size of level l, B anchors of all levels (the sum of
H_l * W_l * A).

Where the paper only refers to Faster R-CNN ("as in [29]"), the default settings are those of py-faster-rcnn and
Detectron (DEVIATIONS.md "RPN").
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from fpn_lightning.errors import InputError
from fpn_lightning.models.anchors import AnchorGenerator
from fpn_lightning.models.box_coder import BoxCoder, clip_boxes
from fpn_lightning.models.convolution import Conv2d
from fpn_lightning.models.matcher import Matcher
from fpn_lightning.models.nms import nms_in_one_call, nms_per_level
from fpn_lightning.models.sampler import Sampler
from fpn_lightning.structures import Proposals, Targets


@dataclass
class RPNOutputs:
    """Raw outputs of one forward pass of the RPN, finest level first.

    Attributes:
        logits: L tensors ``(N, H_l * W_l * A)``, objectness logits.
        deltas: L tensors ``(N, H_l * W_l * A, 4)``, offsets from the anchors.
        anchors: L tensors ``(H_l * W_l * A, 4)`` xyxy, network-input pixels.
    """

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]


class RPNHead(nn.Module):
    """The head of the RPN: a 3x3 convolution and two sibling 1x1 convolutions (FPN §4.1).

    Args:
        channels: number of channels of the maps, and of the output of the 3x3 convolution.
        num_anchors: A.
    """

    def __init__(self, channels: int, num_anchors: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)
        self.objectness_logits = Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = Conv2d(channels, num_anchors * 4, 1)
        for layer in (self.conv, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.get_parameter("bias"), 0)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Compute objectness logits and anchor deltas on one map.

        Args:
            feature: ``(N, d, H, W)``.

        Returns:
            Logits ``(N, H * W * A)`` and deltas ``(N, H * W * A, 4)``, cells row-major, anchors innermost.
        """
        hidden = F.relu(self.conv(feature), inplace=True)
        # One convolution computes both outputs: two convolutions would each allocate a gradient as large as `hidden`.
        weights, biases = zip(
            *(layer.parameters() for layer in (self.objectness_logits, self.anchor_deltas)), strict=True
        )
        # (N, A * 5, H, W) -> (N, H, W, A * 5) -> (N, H, W, A) and (N, H, W, A * 4)
        both = F.conv2d(hidden, torch.cat(weights), torch.cat(biases)).permute(0, 2, 3, 1)
        logits, deltas = both.split([len(bias) for bias in biases], dim=3)
        return logits.flatten(1), deltas.reshape(len(feature), -1, 4)


class RPN(nn.Module):
    """Region proposal network: scores anchors, refines their boxes and returns the best as proposals.

    Args:
        in_channels: channels of the pyramid's maps.
        anchor_generator: computes the anchors; its ``strides`` name the maps that the RPN reads, in order.
        shared_head: if true, all levels share one head, as in the paper. If false, each level has its own head (FPN
            §4.1 reports similar accuracy for both).
        positive_iou: anchors with at least this IoU with an object are positive. The anchor with the highest IoU with
            an object is positive even if this IoU is below ``positive_iou``.
        negative_iou: anchors whose IoU with every object is below ``negative_iou`` are negative.
        batch_size_per_image: number of anchors that are sampled per image for the losses.
        positive_fraction: largest fraction of positive anchors in a sample.
        smooth_l1_beta: absolute difference at which the smooth L1 loss changes from quadratic to linear.
        loc_weight: factor on the box loss.
        pre_nms_topk: number of anchors per level, those with the highest scores, that are kept before NMS.
        post_nms_topk: number of proposals per image, those with the highest scores, that are kept after NMS.
        nms_thresh: IoU of two proposals of one level above which the proposal with the lower score is removed.
        min_size: proposals with a side of at most this length (px) are removed.

    Raises:
        InputError: if the head is shared and the maps have different numbers of anchors per cell.
    """

    def __init__(
        self,
        in_channels: int,
        anchor_generator: AnchorGenerator,
        shared_head: bool = True,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        smooth_l1_beta: float = 1 / 9,
        loc_weight: float = 1.0,
        pre_nms_topk: int = 1000,
        post_nms_topk: int = 2000,
        nms_thresh: float = 0.7,
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.levels = [int(name[1:]) for name in anchor_generator.strides]
        counts = anchor_generator.num_anchors
        if shared_head and len(set(counts)) != 1:
            raise InputError(
                f"model.detector.rpn: a shared head needs the same number of anchors per cell on every map, but "
                f"model.detector.anchors gives {counts}. Set shared_head to false."
            )
        self.heads = nn.ModuleList(RPNHead(in_channels, count) for count in (counts[:1] if shared_head else counts))
        self.matcher = Matcher(positive_iou, negative_iou, keep_best=True)
        self.sampler = Sampler(batch_size_per_image, positive_fraction)
        self.box_coder = BoxCoder()
        self.smooth_l1_beta = smooth_l1_beta
        self.loc_weight = loc_weight
        self.pre_nms_topk = pre_nms_topk
        self.post_nms_topk = post_nms_topk
        self.nms_thresh = nms_thresh
        self.min_size = min_size

    def forward(self, features: dict[str, Tensor]) -> RPNOutputs:
        """Compute logits and deltas of all anchors on the maps ``{"p2": (N, d, H_2, W_2), ...}``."""
        maps = [features[name] for name in self.anchor_generator.strides]
        heads = itertools.cycle(self.heads) if len(self.heads) == 1 else self.heads
        logits, deltas = zip(*(head(feature) for head, feature in zip(heads, maps, strict=False)), strict=True)
        anchors = self.anchor_generator([(feature.shape[-2], feature.shape[-1]) for feature in maps])
        return RPNOutputs(list(logits), list(deltas), anchors)

    def label_anchors(self, anchors: Tensor, targets: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        """Match the anchors of every image with its ground truth.

        Objects are not assigned to levels by size: the anchors of every level are matched with every object (FPN §4.1).

        Args:
            anchors: ``(B, 4)``, the anchors of all levels.
            targets: ground truth of each of the N images.

        Returns:
            ``match_labels`` int8 ``(N, B)``: 1 for positive, 0 for negative and -1 for ignored anchors.
            ``matched_idxs`` int64 ``(N, B)``: index of each anchor's object among the objects of the image.
        """
        # Match one image at a time: a batch would have to be padded to the largest number of objects in an image.
        matched_idxs, match_labels = zip(
            *(self.matcher(target.boxes.to(anchors), anchors) for target in targets), strict=True
        )
        return torch.stack(match_labels), torch.stack(matched_idxs)

    def losses(self, outputs: RPNOutputs, targets: Sequence[Targets], seeds: Tensor) -> dict[str, Tensor]:
        """Compute the objectness loss and the box loss of a random sample of anchors (Faster R-CNN eq. 1).

        Each loss is a sum over the sampled anchors, divided by ``N * batch_size_per_image``. This number does
        not depend on how many anchors were sampled. The gradient is therefore the same however the batch is split over
        processes.

        Args:
            outputs: the result of :meth:`forward`.
            targets: ground truth of each of the N images.
            seeds: int64 ``(N,)``; see :func:`fpn_lightning.models.sampler.image_seeds`.

        Returns:
            Scalars ``loss_rpn_cls`` and ``loss_rpn_loc``.
        """
        logits, deltas = torch.cat(outputs.logits, dim=1), torch.cat(outputs.deltas, dim=1)
        anchors = torch.cat(outputs.anchors)
        match_labels, matched_idxs = self.label_anchors(anchors, targets)
        positive, negative = self.sampler(match_labels, seeds)
        image, anchor = (positive | negative).nonzero(as_tuple=True)
        loss_cls = F.binary_cross_entropy_with_logits(
            logits[image, anchor].to(anchors.dtype), positive[image, anchor].to(anchors.dtype), reduction="sum"
        )
        image, anchor = positive.nonzero(as_tuple=True)
        padded_boxes = pad_sequence([target.boxes for target in targets], batch_first=True)
        boxes = padded_boxes[image, matched_idxs[image, anchor]]
        loss_loc = F.smooth_l1_loss(
            deltas[image, anchor].to(anchors.dtype),
            self.box_coder.encode(anchors[anchor], boxes.to(anchors)),
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        count = len(targets) * self.sampler.batch_size_per_image
        return {"loss_rpn_cls": loss_cls / count, "loss_rpn_loc": self.loc_weight * loss_loc / count}

    @torch.no_grad()
    def predict(self, outputs: RPNOutputs, sizes: Tensor) -> list[Proposals]:
        """Turn raw outputs into proposals: top-k per level, decoding, clipping, NMS per level, top-k per image.

        Args:
            outputs: the result of :meth:`forward`.
            sizes: int64 ``(N, 2)`` height and width of every image, network-input pixels.

        Returns:
            Proposals of each of the N images, at most ``post_nms_topk`` per image, highest score first.

        Raises:
            FloatingPointError: if a logit or a box is not finite.
        """
        scores, deltas_of_top, anchors_of_top, levels = [], [], [], []
        for level, logits, deltas, anchors in zip(
            self.levels, outputs.logits, outputs.deltas, outputs.anchors, strict=True
        ):
            top_logits, top = logits.to(anchors.dtype).topk(min(self.pre_nms_topk, logits.shape[1]), dim=1)
            scores.append(top_logits)
            deltas_of_top.append(deltas.gather(1, top[:, :, None].expand(-1, -1, 4)))  # (N, k, 4)
            anchors_of_top.append(anchors[top])
            levels.append(torch.full_like(top, level))
        all_scores, all_levels, references = torch.cat(scores, 1), torch.cat(levels, 1), torch.cat(anchors_of_top, 1)
        all_deltas = torch.cat(deltas_of_top, 1).to(references.dtype)
        all_boxes = self.box_coder.decode(references.flatten(0, 1), all_deltas.flatten(0, 1)).view(references.shape)
        if not (all_scores.isfinite().all() & all_boxes.isfinite().all()):
            raise FloatingPointError("The RPN's logits or boxes are not finite: the model has diverged.")
        return [self._select(*of_image) for of_image in zip(all_boxes, all_scores, all_levels, sizes, strict=True)]

    def _select(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: Tensor) -> Proposals:
        boxes = clip_boxes(boxes, size)
        large = ((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(dim=1).nonzero().flatten()
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        # On a CPU, one call of NMS per level is faster. On a GPU, a single call for all levels is faster, because the
        # host waits for the GPU at each call.
        if boxes.device.type == "cpu":
            keep = nms_per_level(boxes, scores, levels, self.nms_thresh)
        else:
            keep = nms_in_one_call(boxes, scores, levels, size.max(), self.nms_thresh)
        keep = keep[: self.post_nms_topk]
        return Proposals(boxes[keep], scores[keep], levels[keep])

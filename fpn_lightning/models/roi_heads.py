"""RoI heads: classify proposals and refine their boxes (Fast R-CNN §2; FPN §4.2).

Shape shorthand: N images, P proposals of one image, R regions (RoIs) of the whole batch, K foreground classes, U unused
logits.

Default settings of RoI heads that the paper does not state are those of py-faster-rcnn and Detectron (DEVIATIONS.md
"RoI heads").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms

from fpn_lightning.errors import InputError
from fpn_lightning.models.box_coder import BoxCoder, clip_boxes
from fpn_lightning.models.box_head import BoxHead, BoxPredictor
from fpn_lightning.models.matcher import Matcher
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.models.sampler import Sampler
from fpn_lightning.structures import Detections, Proposals, Targets


@dataclass
class RoISample:
    """The sampled regions of a batch, for which the losses are computed.

    Attributes:
        boxes: N tensors ``(R_n, 4)`` xyxy, network-input pixels; R is the sum of the R_n.
        labels: int64 ``(R,)`` in [0, K], K for background.
        matched_boxes: ``(R, 4)`` box of the object that each region overlaps most; unused for background.
    """

    boxes: list[Tensor]
    labels: Tensor
    matched_boxes: Tensor


class RoIHeads(nn.Module):
    """Classifies regions, and refines the boxes of regions separately for each class.

    Args:
        pooler: pools regions from the maps.
        box_head: computes features from pooled regions.
        num_classes: K; the background has label K.
        positive_iou: a region with at least this IoU with an object gets the object's class; other
            regions are background.
        batch_size_per_image: number of regions that are sampled per image for the losses (FPN §5.2: 512).
        positive_fraction: largest fraction of foreground regions in a sample.
        smooth_l1_beta: absolute difference at which the smooth L1 loss changes from quadratic to linear.
        box_weight: factor on the box loss.
        delta_weights: factors on the box targets (dx, dy, dw, dh).
        score_thresh: detections with at most this probability are removed.
        nms_thresh: IoU of two detections of one class above which the detection with the lower score is removed.
        detections_per_image: largest number of detections of an image; those with the highest scores are kept.
        min_size: detections with a side of at most this length (px) are removed.
        unused_logits: U, number of logits without a class, after the background's logit. Unused logits take part in
            the softmax over classes. torchvision's COCO models have an unused logit for each category id below 91 that
            COCO lacks.

    Raises:
        InputError: if ``num_classes``, ``batch_size_per_image`` or ``detections_per_image`` is below 1, or
            ``unused_logits`` is below 0.
    """

    def __init__(
        self,
        pooler: RoIPooler,
        box_head: BoxHead,
        num_classes: int = 80,
        positive_iou: float = 0.5,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        smooth_l1_beta: float = 1.0,
        box_weight: float = 1.0,
        delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_image: int = 100,
        min_size: float = 0.0,
        unused_logits: int = 0,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("num_classes", num_classes, 1),
            ("batch_size_per_image", batch_size_per_image, 1),
            ("detections_per_image", detections_per_image, 1),
            ("unused_logits", unused_logits, 0),
        ):
            if count < least:
                raise InputError(f"model.detector.roi_heads: {name} is {count}; it has to be at least {least}.")
        self.pooler = pooler
        self.box_head = box_head
        self.predictor = BoxPredictor(box_head.out_features, num_classes, unused_logits)
        self.num_classes = num_classes
        # Regions that overlap no object are background too. If regions with IoU 0 were ignored, samples of precomputed
        # proposals would have too little background: few precomputed proposals have an IoU above 0 and below
        # positive_iou.
        self.matcher = Matcher(positive_iou, positive_iou, keep_best=False)
        self.sampler = Sampler(batch_size_per_image, positive_fraction)
        self.box_coder = BoxCoder(delta_weights)
        self.smooth_l1_beta = smooth_l1_beta
        self.box_weight = box_weight
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_image = detections_per_image
        self.min_size = min_size

    def forward(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute class logits and box deltas of regions.

        Args:
            features: ``{"p2": (N, d, H_2, W_2), ...}``.
            boxes: N tensors ``(R_n, 4)`` xyxy, network-input pixels.

        Returns:
            Logits ``(R, K + 1 + U)`` of the K classes and the background, and U logits without a class, which
            torchvision's published COCO weights need; and deltas ``(R, K * 4)``. Both are in the order of images.
        """
        return self.predictor(self.box_head(self.pooler(features, boxes)))

    # ---- training --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, proposals: Sequence[Proposals], targets: Sequence[Targets], seeds: Tensor) -> RoISample:
        """Label proposals by their overlap with ground truth, and draw a random sample of the proposals for the losses.

        Ground-truth boxes are added to the proposals, so that at least one candidate overlaps each object.

        Args:
            proposals: proposals of each of the N images.
            targets: ground truth of each of the N images.
            seeds: int64 ``(N,)``; see :func:`fpn_lightning.models.sampler.image_seeds`.
        """
        pairs = list(zip(proposals, targets, strict=True))
        candidates = [torch.cat((proposal.boxes, target.boxes.to(proposal.boxes))) for proposal, target in pairs]
        matches = [
            self.matcher(target.boxes.to(boxes), boxes) for target, boxes in zip(targets, candidates, strict=True)
        ]
        # Pad the labels of every image with -1 (ignored) to the same length.
        match_labels = pad_sequence([labels for _, labels in matches], batch_first=True, padding_value=-1)
        positive, negative = self.sampler(match_labels, seeds)
        boxes, labels, matched_boxes = [], [], []
        for n, (target, (matched_idxs, _)) in enumerate(zip(targets, matches, strict=True)):
            drawn = (positive[n] | negative[n]).nonzero().flatten()
            boxes.append(candidates[n][drawn])
            if len(target.boxes):
                matched = matched_idxs[drawn]
                labels.append(target.labels[matched].where(positive[n, drawn], self.num_classes))
                matched_boxes.append(target.boxes[matched].to(boxes[n]))
            else:
                labels.append(torch.full_like(drawn, self.num_classes))
                matched_boxes.append(boxes[n])
        return RoISample(boxes, torch.cat(labels), torch.cat(matched_boxes))

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Proposals],
        targets: Sequence[Targets],
        seeds: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the classification loss and the box loss of a random sample of regions (Fast R-CNN eq. 1).

        Each loss is a sum over the sampled regions, divided by ``N * batch_size_per_image``. This number does
        not depend on how many regions were sampled. The gradient is therefore the same however the batch is split over
        processes.

        Args:
            features: ``{"p2": (N, d, H_2, W_2), ...}``.
            proposals: proposals of each of the N images.
            targets: ground truth of each of the N images.
            seeds: int64 ``(N,)``; see :meth:`sample`.

        Returns:
            Scalars ``loss_cls`` and ``loss_box_reg``.
        """
        sample = self.sample(proposals, targets, seeds)
        logits, deltas = self(features, sample.boxes)
        return self.losses_of_sample(logits, deltas, sample)

    def losses_of_sample(self, logits: Tensor, deltas: Tensor, sample: RoISample) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg`` of a given sample of regions; see :meth:`losses`.

        Args:
            logits: ``(R, K + 1 + U)``.
            deltas: ``(R, K * 4)``.
            sample: the R regions, in the order of ``logits``.
        """
        references = torch.cat(sample.boxes)
        loss_cls = F.cross_entropy(logits.to(references.dtype), sample.labels, reduction="sum")
        positive = (sample.labels < self.num_classes).nonzero().flatten()
        own_class = deltas.view(-1, self.num_classes, 4)[positive, sample.labels[positive]]
        references = references[positive]
        loss_box_reg = F.smooth_l1_loss(
            own_class.to(references.dtype),
            self.box_coder.encode(references, sample.matched_boxes[positive]),
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        count = len(sample.boxes) * self.sampler.batch_size_per_image
        return {"loss_cls": loss_cls / count, "loss_box_reg": self.box_weight * loss_box_reg / count}

    # ---- detection -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, features: dict[str, Tensor], proposals: Sequence[Proposals], sizes: Tensor) -> list[Detections]:
        """Detect objects: softmax, decoding, clipping, thresholds on size and score, NMS per class, top-k per image.

        Args:
            features: ``{"p2": (N, d, H_2, W_2), ...}``.
            proposals: proposals of each of the N images.
            sizes: int64 ``(N, 2)`` height and width of every image, network-input pixels.

        Returns:
            Detections of each of the N images, at most ``detections_per_image`` per image, highest score first.

        Raises:
            FloatingPointError: if a logit or a box is not finite.
        """
        references = [proposal.boxes for proposal in proposals]
        logits, deltas = self(features, references)
        boxes = torch.cat(references)
        probabilities = logits.to(boxes.dtype).softmax(dim=1)[:, : self.num_classes]
        decoded = self.box_coder.decode(boxes, deltas.to(boxes.dtype)).view(-1, self.num_classes, 4)
        if not (probabilities.isfinite().all() & decoded.isfinite().all()):
            raise FloatingPointError("The box head's logits or boxes are not finite: the model has diverged.")
        counts = [len(of_image) for of_image in references]
        images = zip(decoded.split(counts), probabilities.split(counts), sizes, strict=True)
        return [self._select(*of_image) for of_image in images]

    def _select(self, boxes: Tensor, scores: Tensor, size: Tensor) -> Detections:
        """Select the detections of one image from boxes ``(P, K, 4)`` and scores ``(P, K)``."""
        boxes = clip_boxes(boxes, size)
        large = ((boxes[..., 2:] - boxes[..., :2]) > self.min_size).all(dim=2)
        region, labels = (large & (scores > self.score_thresh)).nonzero(as_tuple=True)
        boxes, scores = boxes[region, labels], scores[region, labels]
        keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_image]
        return Detections(boxes[keep], scores[keep], labels[keep])

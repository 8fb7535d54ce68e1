"""From what a model finds in a batch to pixels of the image files, and on into the metrics; shared by the stages."""

from __future__ import annotations

from collections.abc import Sequence

from fpn_lightning.evaluation.average_precision import AveragePrecision
from fpn_lightning.evaluation.proposal_recall import ProposalRecall
from fpn_lightning.structures import (
    Detections,
    DetectionsOrig,
    ImageBatch,
    Proposals,
    ProposalsOrig,
    Targets,
    boxes_to_original,
    xyxy_to_xywh,
)


def proposals_to_original(images: ImageBatch, proposals: Sequence[Proposals]) -> list[ProposalsOrig]:
    """Proposals of every image of a batch in pixels of its file, on the CPU; their order stays."""
    return [
        ProposalsOrig(
            image_id=int(images.image_ids[n]),
            boxes_orig=boxes_to_original(found.boxes, images.sizes[n], images.sizes_orig[n], images.flipped[n]),
            objectness=found.objectness.cpu(),
            levels=found.levels.cpu(),
        )
        for n, found in enumerate(proposals)
    ]


def detections_to_original(images: ImageBatch, detections: Sequence[Detections]) -> list[DetectionsOrig]:
    """Detections of every image of a batch in pixels of its file, on the CPU; their order stays."""
    return [
        DetectionsOrig(
            image_id=int(images.image_ids[n]),
            boxes_orig=boxes_to_original(found.boxes, images.sizes[n], images.sizes_orig[n], images.flipped[n]),
            scores=found.scores.cpu(),
            labels=found.labels.cpu(),
        )
        for n, found in enumerate(detections)
    ]


def add_to_recall(recall: ProposalRecall, found: ProposalsOrig, target: Targets) -> None:
    """Count what the proposals of one image find."""
    recall.update(
        xyxy_to_xywh(found.boxes_orig),
        found.objectness,
        target.boxes_xywh_orig,
        target.areas_orig,
        target.is_crowd,
        target.labels_orig,
    )


def add_to_precision(precision: AveragePrecision, found: DetectionsOrig, target: Targets) -> None:
    """Add the detections of one image."""
    precision.update(
        found.image_id,
        xyxy_to_xywh(found.boxes_orig),
        found.scores,
        found.labels,
        target.boxes_xywh_orig,
        target.areas_orig,
        target.is_crowd,
        target.labels_orig,
    )

"""From what a model finds in a batch to pixels of the image files; shared by the stages."""

from __future__ import annotations

from collections.abc import Sequence

from fpn_lightning.structures import Detections, DetectionsOrig, ImageBatch, Proposals, ProposalsOrig


def proposals_to_original(images: ImageBatch, proposals: Sequence[Proposals]) -> list[ProposalsOrig]:
    """Proposals of every image of a batch in pixels of its file, on the CPU; their order stays."""
    sources = zip(proposals, images.geometries, images.image_ids.tolist(), strict=True)
    return [found.to_orig(geometry, image_id) for found, geometry, image_id in sources]


def detections_to_original(images: ImageBatch, detections: Sequence[Detections]) -> list[DetectionsOrig]:
    """Detections of every image of a batch in pixels of its file, on the CPU; their order stays."""
    sources = zip(detections, images.geometries, images.image_ids.tolist(), strict=True)
    return [found.to_orig(geometry, image_id) for found, geometry, image_id in sources]

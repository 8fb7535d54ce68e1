"""Target masks of a batch, and the loss of predicted masks (FPN App. A; the logistic loss is that of DeepMask).

Shape shorthand: N images, P positive cells, m x m equal bins of a cell's window; a mask has one value per bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fpn_lightning.ground_truth import check_masks
from fpn_lightning.models.masks.targets import mask_targets
from fpn_lightning.structures import ImageBatch, Targets

MaskLoss = Literal["logistic", "dice"]


def target_masks(
    images: ImageBatch,
    targets: Sequence[Targets],
    image: Tensor,
    matched_idxs: Tensor,
    windows: Tensor,
    mask_size: int,
    soft: bool,
) -> Tensor:
    """Compute the target masks of the positive cells of a batch.

    Args:
        images: the batch.
        targets: ground truth of each of the N images.
        image: int64 ``(P,)`` index of the image of each cell, ascending.
        matched_idxs: int64 ``(P,)`` index of the object of each cell among the boxes of the cell's image.
        windows: ``(P, 4)`` xyxy, the window of each cell, network-input pixels.
        mask_size: m.
        soft: if true, the target value of a bin is the fraction of the bin that the object covers, in [0, 1]. If false,
            the target value is 1 if the object covers at least half of the bin, else 0.

    Returns:
        float32 ``(P, m, m)`` on the device of ``windows``.

    Raises:
        InputError: if the targets of an image with positive cells have no masks.
    """
    parts = [windows.new_zeros(0, mask_size, mask_size)]
    for n, target in enumerate(targets):
        own = image == n
        if not own.any():
            continue
        check_masks(target)
        coverage = mask_targets(
            target.masks,
            matched_idxs[own].cpu().numpy(),
            windows[own].double().cpu().numpy(),
            images.geometries[n],
            mask_size,
        )
        part = torch.from_numpy(coverage.copy()).to(windows)
        parts.append(part if soft else (part >= 0.5).to(windows))
    return torch.cat(parts)


def mask_loss(logits: Tensor, targets: Tensor, form: MaskLoss) -> Tensor:
    """Compute the loss of each mask, and return the sum over all masks.

    Args:
        logits: ``(P, m, m)``.
        targets: ``(P, m, m)`` in [0, 1].
        form: ``logistic`` is the logistic loss, averaged over the values of a mask, as in DeepMask. ``dice`` is
            1 - 2 p·t / (|p|² + |t|²) with probabilities p and targets t (Milletari et al., 3DV 2016). ``dice`` gives
            large and small objects equal weight.

    Returns:
        A scalar, 0 if P is 0.
    """
    if form == "logistic":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (
            logits.shape[1] * logits.shape[2]
        )
    probabilities = logits.sigmoid().flatten(1)
    targets = targets.flatten(1)
    overlap = (probabilities * targets).sum(dim=1)
    total = probabilities.square().sum(dim=1) + targets.square().sum(dim=1)
    return (1 - 2 * overlap / total.clamp(min=1e-6)).sum()

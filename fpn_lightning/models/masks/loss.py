"""What masks are trained on, and how far they are from it (FPN App. A; the form of the loss is DeepMask's).

Shape shorthand: P masks of m x m cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fpn_lightning.models.masks.targets import mask_targets
from fpn_lightning.structures import ImageBatch, Targets, check_masks

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
    """What the masks of positive cells should be.

    Args:
        images: the batch.
        targets: of its N images.
        image: int64 ``(P,)`` the image of each cell, ascending.
        matched_idxs: int64 ``(P,)`` its object, into the boxes of that image.
        windows: ``(P, 4)`` xyxy, network-input pixels.
        mask_size: m.
        soft: covered parts in [0, 1] instead of whether half is covered.

    Returns:
        float32 ``(P, m, m)`` on the device of ``windows``.

    Raises:
        InputError: if the targets carry no masks.
    """
    parts = [windows.new_zeros(0, mask_size, mask_size)]
    for n, target in enumerate(targets):
        rows = image == n
        if not rows.any():
            continue
        check_masks(target)
        coverage = mask_targets(
            target.masks,
            matched_idxs[rows].cpu().numpy(),
            windows[rows].double().cpu().numpy(),
            images.geometries[n],
            mask_size,
        )
        part = torch.from_numpy(coverage.copy()).to(windows)
        parts.append(part if soft else (part >= 0.5).to(windows))
    return torch.cat(parts)


def mask_loss(logits: Tensor, targets: Tensor, form: MaskLoss) -> Tensor:
    """The losses of masks, summed over masks.

    Args:
        logits: ``(P, m, m)``.
        targets: ``(P, m, m)`` in [0, 1].
        form: ``logistic``: the mean over a mask's cells of the logistic loss, as in DeepMask. ``dice``: 1 - 2 |p t| /
            (|p|² + |t|²) with probabilities p (Milletari et al., 3DV 2016), which weighs large and small objects alike.

    Returns:
        A scalar, 0 for no masks.
    """
    if form == "logistic":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (
            logits.shape[1] * logits.shape[2]
        )
    probabilities = logits.sigmoid().flatten(1)
    wanted = targets.flatten(1)
    overlap = (probabilities * wanted).sum(dim=1)
    total = probabilities.square().sum(dim=1) + wanted.square().sum(dim=1)
    return (1 - 2 * overlap / total.clamp(min=1e-6)).sum()

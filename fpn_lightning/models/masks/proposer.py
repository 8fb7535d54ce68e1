"""Segmentation proposals from a feature pyramid: MLPs at all positions of every level (FPN §6, App. A).

A cell is one MLP at one position of one level. Each cell predicts one score and one mask.

Shape shorthand: N images, d channels, H_l x W_l size of level l, B cells of one image, m x m values of a mask, k x k
positions of the map that an MLP reads.

An MLP is a k x k convolution with 512 outputs, a ReLU and two sibling 1 x 1 convolutions. Training applies the MLPs
only at the sampled cells, to k x k patches of the maps. The scores and masks of these cells equal those of convolutions
over whole maps, at a fraction of the cost. Prediction computes the score of every cell, and masks only for the cells
with the best scores.

DEVIATIONS.md lists the settings of mask proposals that the paper does not give, in rows that begin with "Mask".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpn_lightning.errors import InputError
from fpn_lightning.mask_structures import MaskProposals
from fpn_lightning.models.masks.cells import CellGrid, TieBreak
from fpn_lightning.models.masks.loss import MaskLoss, mask_loss, target_masks
from fpn_lightning.models.masks.mlp import MaskMLP
from fpn_lightning.models.sampler import Sampler
from fpn_lightning.structures import ImageBatch, Targets

Normalizer = Literal["samples", "positives"]


class MaskProposer(nn.Module):
    """Predicts a score and a mask for each cell, and proposes the masks with the best scores.

    Args:
        in_channels: d.
        strides: stride of every map, finest first, ``{"p2": 4, ...}``.
        base_size: object size of the finest level, px of the network input; the size doubles with each level (FPN §6:
            from 32 on P2 to 512 on P6).
        windows: side k of each MLP's window, an odd number of positions of the map.
        octaves: one number o for each MLP. The MLP predicts objects of 2^o times the object size of the level. In the
            paper, o is 0 for the 5x5 MLP, and 0.5 for the 7x7 MLP (half octaves: 128√2 px on P4).
        mask_size: m; 14, or 28 for the paper's row "2x mask resolution".
        hidden_channels: output channels of the k x k convolution.
        padding: the side of a mask is ``1 + padding`` times the object size.
        centre_tolerance: largest distance along each axis, in strides, between a cell and the centre of its object.
        tie_break: which object a cell predicts if several objects fit; see :meth:`CellGrid.label`.
        batch_size_per_image: number of cells sampled per image for the losses (128: 2048 for a batch of 16 images).
        positive_fraction: largest fraction of positive cells in a sample (0.25: three negatives for each positive).
        mask_weight: factor on the mask loss.
        loss: loss of one mask, ``logistic`` or ``dice``; see :func:`fpn_lightning.models.masks.loss.mask_loss`.
        normalizer: ``samples`` divides the mask loss of an image by ``batch_size_per_image``, like the score loss.
            ``positives`` divides the mask loss of an image by ``batch_size_per_image * positive_fraction``, the largest
            number of positive cells that can be sampled.
        soft_targets: if true, the target value of a bin is the fraction of the bin that the object covers. If false,
            the target value is 1 if the object covers at least half of the bin, else 0.
        topk: largest number of proposals of one image.

    Raises:
        InputError: if a value is out of range; the message names the config key.
    """

    def __init__(
        self,
        in_channels: int,
        strides: dict[str, int],
        base_size: float = 32,
        windows: Sequence[int] = (5, 7),
        octaves: Sequence[float] = (0.0, 0.5),
        mask_size: int = 14,
        hidden_channels: int = 512,
        padding: float = 0.25,
        centre_tolerance: float = 1.0,
        tie_break: TieBreak = "nearest",
        batch_size_per_image: int = 128,
        positive_fraction: float = 0.25,
        mask_weight: float = 10.0,
        loss: MaskLoss = "logistic",
        normalizer: Normalizer = "samples",
        soft_targets: bool = False,
        topk: int = 1000,
    ) -> None:
        super().__init__()
        if not windows or len(windows) != len(octaves) or any(side < 1 or side % 2 == 0 for side in windows):
            raise InputError(
                f"model.detector.masks: windows is {list(windows)} and octaves is {list(octaves)}. Set windows to "
                "one or more odd kernel sizes (one per MLP), and octaves to as many numbers (one per MLP)."
            )
        for key, value, is_valid, valid in (
            ("mask_size", mask_size, mask_size >= 1, "at least 1"),
            ("hidden_channels", hidden_channels, hidden_channels >= 1, "at least 1"),
            ("padding", padding, padding >= 0, "at least 0"),
            ("centre_tolerance", centre_tolerance, centre_tolerance >= 0.5, "at least 0.5 strides"),
            ("batch_size_per_image", batch_size_per_image, batch_size_per_image >= 1, "at least 1"),
            ("positive_fraction", positive_fraction, 0 < positive_fraction <= 1, "above 0 and at most 1"),
            ("mask_weight", mask_weight, mask_weight >= 0, "at least 0"),
            ("topk", topk, topk >= 1, "at least 1"),
        ):
            if not is_valid:
                raise InputError(f"model.detector.masks: {key} is {value}; it has to be {valid}.")
        self.strides = dict(strides)
        self.levels = [int(name[1:]) for name in strides]
        self.sizes = [[base_size * 2 ** (i + octave) for octave in octaves] for i in range(len(strides))]
        self.mlps = nn.ModuleList(MaskMLP(in_channels, side, mask_size, hidden_channels) for side in windows)
        self.sampler = Sampler(batch_size_per_image, positive_fraction)
        self.mask_size = mask_size
        self.padding = padding
        self.centre_tolerance = centre_tolerance
        self.tie_break: TieBreak = tie_break
        self.mask_weight = mask_weight
        self.loss: MaskLoss = loss
        self.normalizer = normalizer
        self.soft_targets = soft_targets
        self.topk = topk

    def grid(self, features: dict[str, Tensor]) -> CellGrid:
        """Return the cells of the maps ``{"p2": (N, d, H_2, W_2), ...}``."""
        maps = [features[name] for name in self.strides]
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in maps]
        return CellGrid(sizes, list(self.strides.values()), self.sizes, maps[0].device)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Compute the score of every cell: logits ``(N, B)``."""
        maps = [features[name] for name in self.strides]
        return torch.cat([mlp.score_map(feature) for feature in maps for mlp in self._mlps()], dim=1)

    def _mlps(self) -> Iterable[MaskMLP]:
        return cast("Iterable[MaskMLP]", self.mlps)  # nn.ModuleList is not typed

    # ---- training --------------------------------------------------------------------------------------------------

    def label_cells(self, grid: CellGrid, images: ImageBatch, targets: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        """Return ``match_labels`` and ``matched_idxs`` of all cells, ``(N, B)`` each; see :meth:`CellGrid.label`."""
        labelled = [
            grid.label(target.boxes, (height, width), self.centre_tolerance, self.tie_break)
            for target, (height, width) in zip(targets, images.sizes.tolist(), strict=True)
        ]
        match_labels, matched_idxs = zip(*labelled, strict=True)
        return torch.stack(match_labels), torch.stack(matched_idxs)

    def losses(
        self, features: dict[str, Tensor], images: ImageBatch, targets: Sequence[Targets], seeds: Tensor
    ) -> dict[str, Tensor]:
        """Compute the score loss and the mask loss of a random sample of cells (FPN App. A).

        Each loss is a sum over the sampled cells, divided by a fixed number of cells per image, not by the number of
        sampled cells. The gradient is therefore the same however the batch is split over processes. Negative cells
        contribute only to the score loss.

        Args:
            features: ``{"p2": (N, d, H_2, W_2), ...}``.
            images: the batch from which the features were computed.
            targets: ground truth of each of the N images, with masks.
            seeds: int64 ``(N,)``, seed of each image's sample; see :func:`fpn_lightning.models.sampler.image_seeds`.

        Returns:
            Scalars ``loss_mask`` and ``loss_mask_score``.
        """
        grid = self.grid(features)
        match_labels, matched_idxs = self.label_cells(grid, images, targets)
        positive, negative = self.sampler(match_labels, seeds)
        image, cell = (positive | negative).nonzero(as_tuple=True)
        is_positive = positive[image, cell]
        mask_targets = target_masks(
            images,
            targets,
            image[is_positive],
            matched_idxs[positive],
            grid.windows(cell[is_positive], self.padding),
            self.mask_size,
            self.soft_targets,
        )
        mask_index = is_positive.cumsum(dim=0) - 1  # for each positive cell, its row in mask_targets
        score_losses, mask_losses = [], []
        for mlp, picked, hidden in self._hidden(features, grid, image, cell):
            positives = is_positive[picked]
            score = mlp.score_logits_of(hidden).float()
            score_losses.append(F.binary_cross_entropy_with_logits(score, positives.to(score), reduction="sum"))
            logits = mlp.mask_logits_of(hidden[positives]).float()
            mask_losses.append(mask_loss(logits, mask_targets[mask_index[picked[positives]]], self.loss))
        count = len(targets) * self.sampler.batch_size_per_image
        mask_count = count * (self.sampler.positive_fraction if self.normalizer == "positives" else 1)
        return {
            "loss_mask": self.mask_weight * torch.stack(mask_losses).sum() / mask_count,
            "loss_mask_score": torch.stack(score_losses).sum() / count,
        }

    def _hidden(
        self, features: dict[str, Tensor], grid: CellGrid, image: Tensor, cell: Tensor
    ) -> Iterator[tuple[MaskMLP, Tensor, Tensor]]:
        """For each MLP, yield the MLP, the indices of its cells in ``cell`` (int64), and the hidden units of its cells.

        Every MLP reads every map, even without sampled cells, because DDP waits for the gradient of every parameter.
        """
        groups, rows, columns = grid.locate(cell)
        for number, mlp in enumerate(self._mlps()):
            places, parts = [], []
            for index, name in enumerate(self.strides):
                picked = (groups == index * len(self.mlps) + number).nonzero()[:, 0]
                places.append(picked)
                parts.append(mlp.hidden_at(features[name], image[picked], rows[picked], columns[picked]))
            yield mlp, torch.cat(places), torch.cat(parts)

    # ---- prediction ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, features: dict[str, Tensor], sizes: Tensor) -> list[MaskProposals]:
        """Propose the masks with the best scores, without NMS or other post-processing (FPN §6).

        Args:
            features: ``{"p2": (N, d, H_2, W_2), ...}``.
            sizes: int64 ``(N, 2)`` height and width of every image, network-input pixels.

        Returns:
            At most ``topk`` proposals for each of the N images, highest score first.

        Raises:
            FloatingPointError: if a score is not finite.
        """
        grid, scores = self.grid(features), self(features).float()
        if not scores.isfinite().all():
            raise FloatingPointError("The scores of the mask MLPs are not finite: the model has diverged.")
        return [
            self._best({name: value[n : n + 1] for name, value in features.items()}, grid, scores[n], (height, width))
            for n, (height, width) in enumerate(sizes.tolist())
        ]

    def _best(
        self, features: dict[str, Tensor], grid: CellGrid, scores: Tensor, size: tuple[int, int]
    ) -> MaskProposals:
        inside = grid.inside(size)
        best, cell = scores.masked_fill(~inside, -math.inf).topk(min(self.topk, int(inside.sum())))
        logits = scores.new_empty(len(cell), self.mask_size, self.mask_size)
        for mlp, picked, hidden in self._hidden(features, grid, torch.zeros_like(cell), cell):
            logits[picked] = mlp.mask_logits_of(hidden).to(logits)
        groups, _, _ = grid.locate(cell)
        levels = torch.tensor(self.levels, device=cell.device)[grid.group_levels[groups]]
        return MaskProposals(logits, grid.windows(cell, self.padding), best, levels)

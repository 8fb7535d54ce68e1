"""The MLP that predicts a score and a mask at each position of a map (FPN App. A).

Shape shorthand: N images, d channels, H x W size of a map, P chosen cells, k x k positions of the map that the MLP
reads, m x m values of a mask, F hidden channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskMLP(nn.Module):
    """A k x k convolution, a ReLU and two sibling 1 x 1 convolutions, with the same weights on all levels.

    Args:
        in_channels: d.
        window: k, an odd number.
        mask_size: m.
        hidden_channels: F, output channels of the k x k convolution.
    """

    def __init__(self, in_channels: int, window: int, mask_size: int = 14, hidden_channels: int = 512) -> None:
        super().__init__()
        self.window = window
        self.mask_size = mask_size
        self.hidden = nn.Conv2d(in_channels, hidden_channels, window, padding=window // 2)
        self.mask_logits = nn.Conv2d(hidden_channels, mask_size**2, 1)
        self.score_logits = nn.Conv2d(hidden_channels, 1, 1)
        for layer in (self.hidden, self.mask_logits, self.score_logits):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.get_parameter("bias"), 0)

    def score_map(self, feature: Tensor) -> Tensor:
        """Compute the score logits ``(N, H * W)`` of every cell of a map ``(N, d, H, W)``, cells row-major."""
        return self.score_logits(F.relu(self.hidden(feature))).flatten(1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and masks of every cell of a map ``(N, d, H, W)``.

        Returns:
            Score logits ``(N, H * W)`` and mask logits ``(N, H * W, m, m)``, cells row-major.
        """
        hidden = F.relu(self.hidden(feature))
        # (N, m * m, H, W) -> (N, m * m, H * W) -> (N, H * W, m * m) -> (N, H * W, m, m)
        masks = self.mask_logits(hidden).flatten(2).transpose(1, 2).unflatten(2, (self.mask_size, self.mask_size))
        return self.score_logits(hidden).flatten(1), masks

    def hidden_at(self, feature: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Compute the hidden units of chosen cells, from the k x k patches around these cells.

        Args:
            feature: ``(N, d, H, W)``.
            image: int64 ``(P,)`` index of each cell's image in [0, N).
            row: int64 ``(P,)`` in [0, H).
            column: int64 ``(P,)`` in [0, W).

        Returns:
            ``(P, F)``, at least 0.
        """
        k = self.window
        padded = F.pad(feature, (k // 2,) * 4)  # (N, d, H + k - 1, W + k - 1)
        width = padded.shape[-1]
        within = torch.arange(k, device=row.device)
        offsets = (within[:, None] * width + within).flatten()  # (k * k,)
        places = (row * width + column)[:, None] + offsets  # (P, k * k)
        patches = padded.flatten(2)[image[:, None], :, places]  # (P, k * k, d)
        # (F, d, k, k) -> (F, k, k, d) -> (F, k * k * d)
        weight = self.hidden.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(patches.flatten(1), weight, self.hidden.bias))

    def score_logits_of(self, hidden: Tensor) -> Tensor:
        """Compute score logits ``(P,)`` from hidden units ``(P, F)``."""
        return F.linear(hidden, self.score_logits.weight.flatten(1), self.score_logits.bias)[:, 0]

    def mask_logits_of(self, hidden: Tensor) -> Tensor:
        """Compute mask logits ``(P, m, m)`` from hidden units ``(P, F)``."""
        logits = F.linear(hidden, self.mask_logits.weight.flatten(1), self.mask_logits.bias)
        return logits.unflatten(1, (self.mask_size, self.mask_size))

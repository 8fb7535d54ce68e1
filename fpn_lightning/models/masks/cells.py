"""Cells: the positions at which mask MLPs predict, and the object that each cell learns to predict (FPN §6, App. A).

Shape shorthand: L levels, M MLPs, H_l x W_l size of level l, B = M * sum of H_l * W_l cells, P chosen cells, G objects
of one image.

A *cell* is one position of one MLP on one level. Like the anchors, the cell in row i and column j of a map with stride
s has its centre at x = j * s, y = i * s. All cells of one level and one MLP form a *group*, which predicts objects of
one size.

In this file, the size of an object is max(width, height), as in FPN §6. An object is assigned to the group with the
nearest size in log space. The object is assigned to every cell of this level and MLP whose centre is at most one
stride from the object's centre along each axis (DEVIATIONS.md "Mask cells").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

TieBreak = Literal["nearest", "smallest"]


class CellGrid:
    """All cells of an image, ordered by level, MLP, row and column. All images of a batch have the same cells.

    Args:
        map_sizes: ``(H_l, W_l)`` of every level, finest first.
        strides: stride of every level, px of the network input.
        sizes: object size of every group, px of the network input, as L lists (levels) of M numbers (MLPs).
        device: device of the tensors.

    Attributes:
        num_cells: B.
        group_sizes: float32 ``(L * M,)`` object size of each group.
        group_levels: int64 ``(L * M,)`` index of each group's level, 0 for the finest level.
        group_heads: int64 ``(L * M,)`` index of each group's MLP.
    """

    def __init__(
        self,
        map_sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        sizes: Sequence[Sequence[float]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.group_levels = torch.arange(len(sizes), device=device).repeat_interleave(len(sizes[0]))
        self.group_heads = torch.arange(len(sizes[0]), device=device).repeat(len(sizes))
        self.group_sizes = torch.tensor(sizes, dtype=torch.float32, device=device).flatten()
        self._strides = torch.tensor(strides, device=device)[self.group_levels]
        self._shapes = torch.tensor(map_sizes, device=device)[self.group_levels]  # (L * M, 2)
        ends = self._shapes.prod(dim=1).cumsum(dim=0)
        self._starts = torch.cat((ends.new_zeros(1), ends))
        self.num_cells = int(ends[-1])

    def locate(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the group (one MLP on one level), row and column of each cell, int64 ``(P,)`` each.

        Args:
            cells: int64 ``(P,)``, indices of cells in [0, B).
        """
        groups = torch.searchsorted(self._starts, cells, right=True) - 1
        within, widths = cells - self._starts[groups], self._shapes[groups, 1]
        return groups, within // widths, within % widths

    def windows(self, cells: Tensor, padding: float) -> Tensor:
        """Return the square in which each cell predicts a mask: float32 ``(P, 4)`` xyxy, network-input pixels.

        Args:
            cells: int64 ``(P,)``.
            padding: the side of a square is ``1 + padding`` times the object size (FPN App. A: 25 % padding).
        """
        groups, rows, columns = self.locate(cells)
        centres = torch.stack((columns, rows), dim=1) * self._strides[groups, None]
        half = (self.group_sizes[groups] * (1 + padding) / 2)[:, None]
        return torch.cat((centres - half, centres + half), dim=1)

    def inside(self, size: tuple[int, int]) -> Tensor:
        """Return which cells have their centre on the image, not on padding: bool ``(B,)``; size is height, width."""
        groups, rows, columns = self.locate(torch.arange(self.num_cells, device=self._starts.device))
        strides = self._strides[groups]
        return (rows * strides < size[0]) & (columns * strides < size[1])

    def label(
        self, boxes: Tensor, size: tuple[int, int], tolerance: float = 1.0, tie_break: TieBreak = "nearest"
    ) -> tuple[Tensor, Tensor]:
        """Label every cell as positive, negative or ignored, and assign an object to each positive cell.

        Args:
            boxes: ``(G, 4)`` xyxy, network-input pixels.
            size: height and width of the image without padding, px.
            tolerance: a cell fits an object if their centres are at most this far apart along each axis, in strides.
            tie_break: which object is assigned if several objects fit a cell: the object with the ``nearest`` centre,
                or with the ``smallest`` box area. In a tie, the object with the lowest index is assigned.

        Returns:
            ``match_labels`` int8 ``(B,)``: 1 for cells with an object, 0 for cells without an object, -1 (ignored) for
            cells on padding. ``matched_idxs`` int64 ``(B,)``: index into ``boxes``, 0 for cells without an object.
        """
        match_labels = self.inside(size).to(torch.int8) - 1
        matched_idxs = torch.zeros(self.num_cells, dtype=torch.int64, device=match_labels.device)
        cells, objects, keys = self._pairs(boxes.to(self.group_sizes), tolerance, tie_break)
        # The pairs of a cell and an object are sorted by object. Two stable sorts order the pairs by cell, then
        # tie-break key, then object. The first pair of each cell in this order gives the object that is assigned to
        # the cell.
        order = torch.argsort(keys, stable=True)
        order = order[torch.argsort(cells[order], stable=True)]
        cells, objects = cells[order], objects[order]
        first = torch.ones_like(cells, dtype=torch.bool)
        first[1:] = cells[1:] != cells[:-1]
        cells, objects = cells[first], objects[first]
        on_image = match_labels[cells] == 0
        match_labels[cells[on_image]] = 1
        matched_idxs[cells[on_image]] = objects[on_image]
        return match_labels, matched_idxs

    def groups_of(self, boxes: Tensor) -> Tensor:
        """Return the group whose size is nearest to each object's max(width, height) in log space: int64 ``(G,)``."""
        sizes = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=torch.finfo(boxes.dtype).tiny)
        return (sizes.log()[:, None] - self.group_sizes.log()).abs().argmin(dim=1)

    def _pairs(self, boxes: Tensor, tolerance: float, tie_break: TieBreak) -> tuple[Tensor, Tensor, Tensor]:
        """Find the cells that fit each object; for ``tolerance`` and ``tie_break``, see :meth:`label`.

        Returns:
            The cell, object and tie-break key of each pair that fits, sorted by object.
        """
        groups = self.groups_of(boxes)
        strides, shapes = self._strides[groups], self._shapes[groups]  # (G,), (G, 2)
        # (G, 2): x and y of each object's centre, divided by the stride of the object's group.
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / strides[:, None]
        reach = int(tolerance) + 1
        offsets = torch.arange(-reach, reach + 1, device=boxes.device)
        columns, rows = ((centre.round().long()[:, None] + offsets) for centre in centres.T)  # (G, K) each
        off_x, off_y = columns - centres[:, :1], rows - centres[:, 1:]
        fits_x = (off_x.abs() <= tolerance) & (columns >= 0) & (columns < shapes[:, 1:])
        fits_y = (off_y.abs() <= tolerance) & (rows >= 0) & (rows < shapes[:, :1])
        objects, y, x = (fits_y[:, :, None] & fits_x[:, None, :]).nonzero(as_tuple=True)
        row, column, width = rows[objects, y], columns[objects, x], shapes[objects, 1]
        cells = self._starts[groups[objects]] + row * width + column
        if tie_break == "nearest":
            return cells, objects, off_x[objects, x].square() + off_y[objects, y].square()
        return cells, objects, (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)[objects]

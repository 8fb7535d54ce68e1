"""Which cell predicts which object: sizes, places, ties, padding."""

import math

import pytest
import torch

from fpn_lightning.models.masks.cells import CellGrid

STRIDES = [4, 8, 16, 32, 64]
SINGLE = [[32.0 * 2**i] for i in range(5)]
DUAL = [[32.0 * 2**i, 32.0 * 2 ** (i + 0.5)] for i in range(5)]
SIZE = (256, 384)


def grid(sizes, size=SIZE):
    return CellGrid([(-(-size[0] // s), -(-size[1] // s)) for s in STRIDES], STRIDES, sizes)


def box(x, y, width, height):
    return torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])


@pytest.mark.parametrize(
    ("width", "height", "single", "dual"),
    [
        # the larger side decides; 32 px is P2, 5x5
        (32, 5, (0, 0), (0, 0)),
        (5, 32, (0, 0), (0, 0)),
        # FPN §6: 128 √2 on P4 is the half octave of the 7x7 MLP
        (181, 100, (2, 0), (2, 1)),
        # the middle between 32 and 64 in log space is 45.25; with half octaves 38.05 and 53.8 part
        (45, 45, (0, 0), (0, 1)),
        (46, 46, (1, 0), (0, 1)),
        (38, 38, (0, 0), (0, 0)),
        (39, 39, (0, 0), (0, 1)),
        (53, 53, (1, 0), (0, 1)),
        (54, 54, (1, 0), (1, 0)),
        # beyond both ends the ends take all
        (1, 1, (0, 0), (0, 0)),
        (3000, 900, (4, 0), (4, 1)),
    ],
)
def test_size_decides_level_and_mlp(width, height, single, dual):
    for sizes, expected in ((SINGLE, single), (DUAL, dual)):
        cells = grid(sizes)
        group = cells.groups_of(box(100, 100, width, height))
        assert (int(cells.group_levels[group]), int(cells.group_heads[group])) == expected


def positives(cells, boxes, size=SIZE, **options):
    """Centres (x, y) of the positive cells of every object."""
    match_labels, matched_idxs = cells.label(boxes, size, **options)
    (cell,) = (match_labels == 1).nonzero(as_tuple=True)
    windows = cells.windows(cell, 0.25)
    centres = ((windows[:, :2] + windows[:, 2:]) / 2).tolist()
    return {
        k: sorted(tuple(c) for c, idx in zip(centres, matched_idxs[cell].tolist(), strict=True) if idx == k)
        for k in range(len(boxes))
    }


def test_cells_within_one_stride_of_the_centre_are_positive():
    # On P2 (stride 4) x = 101 lies between the cells at 100 and 104, y = 62 between 60 and 64.
    assert positives(grid(SINGLE), box(101, 62, 32, 20)) == {0: [(100, 60), (100, 64), (104, 60), (104, 64)]}
    # On a cell's own place its neighbours are exactly one stride away and count too.
    found = positives(grid(SINGLE), box(100, 60, 30, 30))[0]
    assert found == [(x, y) for x in (96, 100, 104) for y in (56, 60, 64)]
    # At P5 (stride 32) it is one cell of that level.
    assert positives(grid(SINGLE), box(100, 70, 256, 200))[0] == [(96, 64), (96, 96), (128, 64), (128, 96)]
    assert positives(grid(SINGLE), box(100, 60, 30, 30), tolerance=0.5) == {0: [(100, 60)]}


def test_windows_have_a_quarter_of_padding():
    cells = grid(DUAL)
    match_labels, _ = cells.label(torch.cat((box(100, 60, 32, 32), box(100, 60, 45, 45))), SIZE)
    (cell,) = (match_labels == 1).nonzero(as_tuple=True)
    sides = {round(float(side), 3) for side in (cells.windows(cell, 0.25)[:, 2] - cells.windows(cell, 0.25)[:, 0])}
    assert sides == {40.0, round(40 * math.sqrt(2), 3)}  # FPN App. A: {40, ...} px, × √2 for the 7x7
    assert set(cells.group_heads[cells.locate(cell)[0]].tolist()) == {0, 1}


def test_two_objects_in_reach_of_one_cell():
    # Both are 32-px objects of P2; the cell at 100 is 1 px from the first and 3 px from the second.
    boxes = torch.cat((box(99, 60, 32, 32), box(103, 60, 30, 31)))
    nearest = positives(grid(SINGLE), boxes)
    assert (100, 60) in nearest[0]
    assert (104, 60) in nearest[1]
    smallest = positives(grid(SINGLE), boxes, tie_break="smallest")
    assert (100, 60) in smallest[1]
    # Two objects of one box: the first.
    twice = positives(grid(SINGLE), boxes[[0, 0]])
    assert len(twice[0]) == 6
    assert twice[1] == []


def test_cells_on_padding_are_left_out():
    cells = grid(SINGLE)
    match_labels, _ = cells.label(torch.zeros(0, 4), (100, 150))
    groups, rows, columns = cells.locate(torch.arange(cells.num_cells))
    strides = torch.tensor(STRIDES)[groups]
    outside = (rows * strides >= 100) | (columns * strides >= 150)
    assert (match_labels[outside] == -1).all()
    assert (match_labels[~outside] == 0).all()
    # P2 has 25 rows and 38 columns on the image.
    assert int((~outside & (groups == 0)).sum()) == 25 * 38
    # An object whose centre is at the very edge keeps the cells on the image only.
    assert positives(cells, box(149, 99, 32, 32), (100, 150)) == {0: [(148, 96)]}


def test_locate_inverts_the_order():
    cells = grid(DUAL)
    groups, rows, columns = cells.locate(torch.arange(cells.num_cells))
    # level by level, MLP by MLP, row-major
    expected = [
        (level * 2 + head, i, j)
        for level, s in enumerate(STRIDES)
        for head in (0, 1)
        for i in range(-(-SIZE[0] // s))
        for j in range(-(-SIZE[1] // s))
    ]
    assert list(zip(groups.tolist(), rows.tolist(), columns.tolist(), strict=True)) == expected

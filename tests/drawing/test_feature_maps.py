"""Feature maps: the meaning of a cell's colour, and the part of the image that the cell covers."""

from __future__ import annotations

import numpy as np
import torch

from fpn_lightning.drawing.feature_maps import VIRIDIS, FeatureMap, feature_maps_of, paint


def test_strength_is_the_mean_difference_to_the_median_cell():
    features = torch.zeros(2, 3, 3)
    features[0] = 7  # the same everywhere: nothing stands out
    features[1, 1, 2] = -4
    (found,) = feature_maps_of({"p3": features}, {"p3": 8}, (24, 24))
    expected = np.zeros((3, 3))
    expected[1, 2] = 2  # (0 + 4) / 2 channels
    assert np.array_equal(found.strength, expected)
    assert (found.name, found.stride, found.size) == ("p3", 8, (24, 24))


def test_cells_of_padding_are_left_out():
    features = torch.zeros(1, 4, 4)
    features[0, :, 3] = 100
    features[0, 3, :] = 100
    (found,) = feature_maps_of({"p4": features}, {"p4": 16}, (40, 33))  # 2.5 x 2.06 cells
    assert found.strength.shape == (3, 3)
    assert not found.strength.any()


def test_a_cell_is_painted_over_its_part_of_the_image():
    strength = np.zeros((2, 3), np.float32)
    strength[1, 2] = 1
    # The network input is 20 x 40, so the last column of stride 16 is cut to half: 16 + 16 + 8 px of 40.
    painted = paint(FeatureMap("p4", 16, strength, (20, 40)), height=100, width=200)
    assert painted.shape == (100, 200, 3)
    strong = (painted == VIRIDIS[255]).all(axis=2)
    rows, columns = np.nonzero(strong)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (80, 99, 160, 199)
    assert strong.sum() == 20 * 40
    assert (painted[~strong] == VIRIDIS[0]).all()


def test_the_border_of_a_larger_map_does_not_set_the_scale():
    strength = np.full((10, 10), 100, np.float32)
    strength[1:-1, 1:-1] = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    painted = paint(FeatureMap("p5", 1, strength, (10, 10)), 10, 10)
    assert (painted[0] == VIRIDIS[255]).all()
    assert len(np.unique(painted[1:-1, 1:-1].reshape(-1, 3), axis=0)) > 50


def test_a_map_without_any_difference_is_dark():
    painted = paint(FeatureMap("p6", 64, np.zeros((1, 1), np.float32), (64, 64)), 5, 7)
    assert (painted == VIRIDIS[0]).all()

"""Box offsets: hand-computed values and round trips."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpn_lightning.models.box_coder import MAX_LOG_SCALE, BoxCoder


def test_offsets_by_hand():
    # A 10 × 20 reference; the box is shifted by (5, -4), twice as wide, half as high.
    reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[0.0, 1.0, 20.0, 11.0]])  # centre (10, 6) against (5, 10)
    expected = [0.5, -0.2, math.log(2), math.log(0.5)]
    assert BoxCoder().encode(reference, box)[0].tolist() == pytest.approx(expected, abs=1e-6)
    weighted = BoxCoder((10, 10, 5, 5)).encode(reference, box)[0].tolist()
    assert weighted == pytest.approx([5, -2, 5 * math.log(2), 5 * math.log(0.5)], abs=1e-5)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.sampled_from([(1, 1, 1, 1), (10, 10, 5, 5)]))
def test_decode_inverts_encode(seed, weights):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(20, 2, 2, generator=generator, dtype=torch.float64) * 500
    side = torch.rand(20, 2, 2, generator=generator, dtype=torch.float64) * 300 + 6  # growth stays under 62.5
    references, boxes = (torch.cat((corner[:, i], corner[:, i] + side[:, i]), dim=1) for i in range(2))
    coder = BoxCoder(weights)
    assert torch.allclose(coder.decode(references, coder.encode(references, boxes)), boxes, atol=1e-6)


def test_class_specific_offsets_are_decoded_class_by_class():
    references = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 25.0, 45.0]])
    deltas = torch.arange(24.0).reshape(2, 12) / 50
    coder = BoxCoder((10, 10, 5, 5))
    together = coder.decode(references, deltas)
    for k in range(3):
        assert torch.equal(together[:, 4 * k : 4 * k + 4], coder.decode(references, deltas[:, 4 * k : 4 * k + 4]))


def test_growth_is_bounded():
    box = BoxCoder().decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    assert torch.allclose(box[0, 2:] - box[0, :2], torch.tensor([1000.0, 1000.0]))
    assert math.isclose(MAX_LOG_SCALE, math.log(62.5))

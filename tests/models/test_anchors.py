"""Anchors, by numbers a person can check."""

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.models.anchors import AnchorGenerator, cell_anchors

FPN_STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def test_cell_anchors_by_hand():
    # Area 32²; height / width = 1/2 gives 32√2 × 32/√2 = 45.2548 × 22.6274.
    boxes = cell_anchors([32], [0.5, 1.0, 2.0])
    expected = torch.tensor(
        [[-22.6274, -11.3137, 22.6274, 11.3137], [-16, -16, 16, 16], [-11.3137, -22.6274, 11.3137, 22.6274]],
        dtype=torch.float64,
    )
    assert torch.allclose(boxes, expected, atol=1e-4)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert torch.allclose(sides.prod(dim=1), torch.full((3,), 1024.0, dtype=torch.float64))


def test_anchors_are_centred_on_multiples_of_the_stride():
    generator = AnchorGenerator({"p3": 8}, [[16]], [1.0])
    (anchors,) = generator([(2, 3)])
    # row-major cells: (0,0) (0,8) (0,16) then the next row
    assert anchors.tolist()[:3] == [[-8, -8, 8, 8], [0, -8, 16, 8], [8, -8, 24, 8]]
    assert anchors.tolist()[3] == [-8, 0, 8, 16]
    assert len(anchors) == 6


def test_sizes_and_maps_must_pair_up():
    with pytest.raises(InputError, match=r"anchors\.octaves has 4 lists, but the pyramid has 5 maps"):
        AnchorGenerator(FPN_STRIDES, [[32], [64], [128], [256]])


def test_torchvisions_convention_rounds_corners_and_divides_the_padded_size():
    generator = AnchorGenerator(FPN_STRIDES, [[32 * 2**i] for i in range(5)], convention="torchvision")
    # 800 x 1088: 1088 is a multiple of 64 and 800 is not, so p6 has 13 rows, 800 // 13 = 61 px apart.
    *finer, p6 = generator([(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)])
    assert finer[0][:3].tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    columns, rows = p6[3] - p6[0], p6[17 * 3] - p6[0]
    assert (columns.tolist(), rows.tolist()) == ([64, 0, 64, 0], [0, 61, 0, 61])
    for stride, width, anchors in zip((4, 8, 16, 32), (272, 136, 68, 34), finer, strict=True):
        assert (anchors[3] - anchors[0]).tolist() == [stride, 0, stride, 0]
        assert (anchors[width * 3] - anchors[0]).tolist() == [0, stride, 0, stride]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_anchors_stay_exact_in_a_model_in_half_precision(dtype):
    generator = AnchorGenerator({"p2": 4, "p3": 8}, [[32], [64]])
    exact = generator([(250, 250), (125, 125)])
    half = torch.nn.Sequential(generator).to(dtype)[0]([(250, 250), (125, 125)])
    assert all(torch.equal(anchors, other) for anchors, other in zip(exact, half, strict=True))
    assert generator.double()([(2, 2), (1, 1)])[0].dtype == torch.float64

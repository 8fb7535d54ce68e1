"""The pyramids, compared with a few lines written from the paper."""

import pytest
import torch
from torch.nn import functional as F

from fpn_lightning.errors import InputError
from fpn_lightning.models.anchors import AnchorGenerator
from fpn_lightning.models.backbones.base import Backbone
from fpn_lightning.models.box_head import BoxHead
from fpn_lightning.models.pyramids import (
    FPN,
    BottomUpPyramid,
    FinestLevel,
    Pyramid,
    SingleMap,
    SSDPyramid,
    TopDownPyramid,
)

CHANNELS = {"c2": 4, "c3": 6, "c4": 8, "c5": 10}
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


def stage_outputs(height, width):
    torch.manual_seed(0)
    return {k: torch.randn(2, CHANNELS[k], -(-height // s), -(-width // s)) for k, s in STRIDES.items()}


def test_declares_strides_and_shapes():
    fpn = FPN(CHANNELS, STRIDES, 5)
    assert fpn.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    maps = fpn(stage_outputs(64, 96))
    assert {k: tuple(v.shape) for k, v in maps.items()} == {
        "p2": (2, 5, 16, 24),
        "p3": (2, 5, 8, 12),
        "p4": (2, 5, 4, 6),
        "p5": (2, 5, 2, 3),
        "p6": (2, 5, 1, 2),
    }


def test_equals_the_equations():
    fpn = FPN(CHANNELS, STRIDES, 5)
    c = stage_outputs(64, 96)
    m5 = fpn.lateral_convs["p5"](c["c5"])
    m4 = fpn.lateral_convs["p4"](c["c4"]) + m5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    m3 = fpn.lateral_convs["p3"](c["c3"]) + m4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    maps = fpn(c)
    # The path goes down before the 3x3: P3 is the convolution of M3, not built from P4.
    assert torch.allclose(maps["p3"], fpn.output_convs["p3"](m3), atol=1e-6)
    assert torch.allclose(maps["p5"], fpn.output_convs["p5"](m5), atol=1e-6)
    assert torch.equal(maps["p6"], F.max_pool2d(maps["p5"], 1, 2))


def test_is_linear():
    # FPN §3: no non-linearities in the extra layers. f(2x) - f(x) = f(x) - f(0) holds for affine maps only.
    fpn = FPN(CHANNELS, STRIDES, 5)
    c = stage_outputs(64, 64)
    zero, one, two = (fpn({k: factor * v for k, v in c.items()}) for factor in (0, 1, 2))
    for name in one:
        assert torch.allclose(two[name] - one[name], one[name] - zero[name], atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(65, 100), (33, 45), (800, 1000)])
def test_odd_sizes_work(height, width):
    maps = FPN(CHANNELS, STRIDES, 5)(stage_outputs(height, width))
    assert maps["p2"].shape[-2:] == (-(-height // 4), -(-width // 4))
    assert maps["p6"].shape[-2:] == (-(-height // 64), -(-width // 64))


def test_channels_of_the_paper():
    fpn = FPN({"c2": 256, "c3": 512, "c4": 1024, "c5": 2048}, STRIDES)
    # laterals: (256+512+1024+2048)*256 + 4*256; outputs: 4 * (256*256*9 + 256)
    assert sum(p.numel() for p in fpn.parameters()) == 3840 * 256 + 4 * 256 + 4 * (256 * 256 * 9 + 256)


def upsampled(feature, factor):
    return feature.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def test_bottom_up_adds_nothing():
    pyramid = BottomUpPyramid(CHANNELS, STRIDES, 5)
    c = stage_outputs(64, 96)
    maps = pyramid(c)
    for k in (2, 3, 4, 5):
        expected = pyramid.output_convs[f"p{k}"](pyramid.lateral_convs[f"p{k}"](c[f"c{k}"]))
        assert torch.allclose(maps[f"p{k}"], expected, atol=1e-6)
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]


def test_top_down_sees_c5_only():
    pyramid = TopDownPyramid(CHANNELS, STRIDES, 5)
    c = stage_outputs(64, 96)
    maps = pyramid(c)
    m5 = pyramid.lateral_convs["p5"](c["c5"])
    assert torch.allclose(maps["p2"], pyramid.output_convs["p2"](upsampled(m5, 8)), atol=1e-6)
    assert list(pyramid.lateral_convs) == ["p5"]


def test_finest_level_is_p2_of_fpn():
    fpn, finest = FPN(CHANNELS, STRIDES, 5), FinestLevel(CHANNELS, STRIDES, 5)
    finest.load_state_dict(fpn.state_dict(), strict=False)
    c = stage_outputs(64, 96)
    assert torch.equal(finest(c)["p2"], fpn(c)["p2"])
    assert finest.strides == {"p2": 4}


def test_single_map_is_the_stage_output():
    c = stage_outputs(64, 96)
    single = SingleMap(CHANNELS, STRIDES, level=4)
    assert single.out_channels == 8
    assert single.strides == {"p4": 16}
    assert single(c)["p4"] is c["c4"]
    with pytest.raises(InputError, match=r"no map of level 6, only c2, c3, c4, c5"):
        SingleMap(CHANNELS, STRIDES, level=6)


def test_ssd_leaves_the_fine_maps_out_and_adds_coarse_ones():
    ssd = SSDPyramid(CHANNELS, STRIDES, 5)
    assert ssd.used == ("c4", "c5")
    assert ssd.strides == {"p4": 16, "p5": 32, "p6": 64, "p7": 128}
    c = stage_outputs(200, 300)
    maps = ssd({"c4": c["c4"], "c5": c["c5"]})
    # sides of an image of 200 x 300 over 16, 32, 64 and 128, rounded up
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "p4": (2, 5, 13, 19),
        "p5": (2, 5, 7, 10),
        "p6": (2, 5, 4, 5),
        "p7": (2, 5, 2, 3),
    }
    lateral = F.conv2d(c["c5"], ssd.lateral_convs["p5"].weight, ssd.lateral_convs["p5"].bias)
    p5 = F.conv2d(lateral, ssd.output_convs["p5"].weight, ssd.output_convs["p5"].bias, padding=1)
    p6 = F.conv2d(p5.clamp(min=0), ssd.extra_convs["p6"].weight, ssd.extra_convs["p6"].bias, stride=2, padding=1)
    p7 = F.conv2d(p6.clamp(min=0), ssd.extra_convs["p7"].weight, ssd.extra_convs["p7"].bias, stride=2, padding=1)
    assert torch.allclose(maps["p5"], p5, atol=1e-6)
    assert torch.allclose(maps["p6"], p6, atol=1e-6)
    assert torch.allclose(maps["p7"], p7, atol=1e-6)


def test_subclasses_have_to_define_every_part():
    with pytest.raises(NotImplementedError):
        Pyramid()({})
    with pytest.raises(NotImplementedError):
        BoxHead()(torch.zeros(1, 4, 7, 7))
    with pytest.raises(NotImplementedError):
        Backbone().features(torch.zeros(1, 3, 8, 8))


def test_anchors_of_the_ssd_like_row():
    pyramid = SSDPyramid(CHANNELS, STRIDES, 5)
    sizes = [[32, 64], [128], [256], [512]]
    generator = AnchorGenerator(pyramid.strides, sizes)
    assert generator.num_anchors == [6, 3, 3, 3]
    assert sum(generator.num_anchors) == 15  # each of the 5 sizes x 3 ratios on one map
    counts = [len(anchors) for anchors in generator([(50, 63), (25, 32), (13, 16), (7, 8)])]
    assert counts == [50 * 63 * 6, 25 * 32 * 3, 13 * 16 * 3, 7 * 8 * 3]  # 22,092 at 800 x 1000


PER_LEVEL, ALL_ON_ONE = [[32 * 2**i] for i in range(5)], [[32 * 2**i for i in range(5)]]
ROWS = {
    "a": (SingleMap, {"level": 4}, ALL_ON_ONE, 47_250),
    "b": (SingleMap, {"level": 5}, ALL_ON_ONE, 12_000),
    "c": (FPN, {}, PER_LEVEL, 199_974),
    "d": (BottomUpPyramid, {}, PER_LEVEL, 199_974),
    "e": (TopDownPyramid, {}, PER_LEVEL, 199_974),
    "f": (FinestLevel, {}, ALL_ON_ONE, 750_000),
}


@pytest.mark.parametrize("row", ROWS)
def test_anchor_counts_of_table_1(row):
    make, options, sizes, expected = ROWS[row]  # the paper prints 47k, 12k, 200k and 750k
    pyramid = make(CHANNELS, STRIDES, 5, **options)
    map_sizes = [(-(-800 // stride), -(-1000 // stride)) for stride in pyramid.strides.values()]
    assert sum(map(len, AnchorGenerator(pyramid.strides, sizes)(map_sizes))) == expected

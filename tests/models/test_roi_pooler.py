"""Levels by Eq. 1, and pooling from these levels."""

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align, roi_pool

from fpn_lightning.errors import InputError
from fpn_lightning.models.roi_pooler import RoIPooler, assign_boxes_to_levels

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def squares(*sizes: float, at: float = 0.0) -> torch.Tensor:
    return torch.tensor([[at, at, at + size, at + size] for size in sizes])


@pytest.mark.parametrize(
    ("size", "level"),
    [(1, 2), (111, 2), (112, 3), (223, 3), (224, 4), (447, 4), (448, 5), (895, 5), (896, 5), (1333, 5), (0, 2)],
)
def test_table_of_equation_1(size, level):
    assert assign_boxes_to_levels(squares(size), 2, 5).tolist() == [level]


def test_size_is_the_root_of_the_area():
    # 448 x 112 and 112 x 448 px are as large as 224 x 224.
    boxes = torch.tensor([[10.0, 20, 458, 132], [10, 20, 122, 468], [10, 20, 457, 132]])
    assert assign_boxes_to_levels(boxes, 2, 5).tolist() == [4, 4, 3]


def test_a_canonical_box_is_on_its_level_wherever_it_lies():
    generator = torch.Generator().manual_seed(0)
    corner = 1100 * torch.rand(20_000, 2, generator=generator)
    for size, level in ((112, 3), (224, 4)):
        boxes = torch.cat((corner, corner + size), dim=1)  # rounded to float32: some sides are short of `size`
        assert ((boxes[:, 2] - boxes[:, 0]) < size).sum() > 1000
        assert (assign_boxes_to_levels(boxes, 2, 5) == level).all()
        just_smaller = torch.cat((corner, corner + size - 0.01), dim=1)
        assert (assign_boxes_to_levels(just_smaller, 2, 5) == level - 1).all()


def test_canonical_size_and_level_shift_the_boundaries():
    # 224 * 160 / 800 = 44.8 px for images of 160 px
    assert assign_boxes_to_levels(squares(22, 23, 44, 45, 90), 2, 5, 44.8).tolist() == [2, 3, 3, 4, 5]
    assert assign_boxes_to_levels(squares(223, 224), 2, 5, canonical_level=3).tolist() == [2, 3]


def test_levels_are_clamped_to_those_there_are():
    assert RoIPooler({"p4": 16}).levels_of(squares(10, 300, 1000)).tolist() == [4, 4, 4]
    assert RoIPooler(STRIDES).levels_of(squares(10, 2000)).tolist() == [2, 5]  # p6 is the RPN's


def constant_maps(height: int, width: int, count: int = 1) -> dict[str, torch.Tensor]:
    """Maps whose every value is their level."""
    return {
        name: torch.full((count, 1, -(-height // stride), -(-width // stride)), float(name[1:]))
        for name, stride in STRIDES.items()
    }


@pytest.mark.parametrize("op", ["pool", "align"])
def test_regions_come_from_their_level_in_their_order(op):
    boxes = [squares(300, 20, 600, 150), squares(30, 250)]
    pooled = RoIPooler(STRIDES, resolution=3, op=op)(constant_maps(640, 640, 2), boxes)
    assert pooled.shape == (6, 1, 3, 3)
    assert pooled[:, 0, 1, 1].tolist() == [4, 2, 5, 3, 2, 4]


def test_pooling_by_hand():
    # One map of stride 2 whose value at (y, x) is 10 y + x. Box (0, 0)..(6, 6) px covers cells 0..3 (RoI pooling
    # rounds corners to cells and counts both ends): 2 x 2 bins of 2 x 2 cells, the maximum of each.
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    feature = (10 * y + x)[None, None]
    pooled = RoIPooler({"p2": 2}, resolution=2)({"p2": feature}, [torch.tensor([[0.0, 0, 6, 6]])])
    assert pooled[0, 0].tolist() == [[11, 13], [31, 33]]
    # RoIAlign, centres at 0.5: box (2, 2)..(6, 6) px is cells 1..3; bins of 1 x 1 cell, one sample at their centres
    # (1.5, 2.5), which lies exactly on cells 1 and 2 when those have their centres at 1.5 and 2.5.
    box = [torch.tensor([[2.0, 2, 6, 6]])]
    aligned = RoIPooler({"p2": 2}, resolution=2, op="align", sampling_ratio=1)({"p2": feature}, box)
    assert aligned[0, 0].tolist() == [[11, 12], [21, 22]]
    # Centres at 0: the same samples lie halfway between cells, 0.5 row and 0.5 column further: + 5.5.
    shifted = RoIPooler({"p2": 2}, resolution=2, op="align", sampling_ratio=1, aligned=False)({"p2": feature}, box)
    assert shifted[0, 0].tolist() == [[16.5, 17.5], [26.5, 27.5]]


@pytest.mark.parametrize(("op", "sampling_ratio"), [("pool", 0), ("align", 0), ("align", 2)])
def test_same_as_torchvision_level_by_level(op, sampling_ratio):
    generator = torch.Generator().manual_seed(1)
    maps = {n: torch.randn(2, 5, 512 // s, 512 // s, generator=generator) for n, s in STRIDES.items()}
    corner = 400 * torch.rand(2, 30, 2, generator=generator)
    side = 400 * torch.rand(2, 30, 2, generator=generator) ** 2 + 1
    boxes = torch.cat((corner, (corner + side).clamp(max=512)), dim=2)
    pooler = RoIPooler(STRIDES, 7, canonical_size=100, op=op, sampling_ratio=sampling_ratio)
    pooled = pooler(maps, list(boxes))
    levels = pooler.levels_of(boxes.flatten(0, 1))
    assert set(levels.tolist()) == {2, 3, 4, 5}
    for index, level in enumerate(levels.tolist()):
        n, r = divmod(index, 30)
        region = torch.cat((torch.tensor([float(n)]), boxes[n, r]))[None]
        feature, scale = maps[f"p{level}"], 1 / 2**level
        expected = (
            roi_pool(feature, region, 7, scale)
            if op == "pool"
            else roi_align(feature, region, 7, scale, sampling_ratio, aligned=True)
        )
        assert torch.equal(pooled[index : index + 1], expected)


def test_strides_do_not_depend_on_the_first_batch():
    # 40 x 64 px: 40 / 32 rounds up to 2 rows, from which a stride would be inferred as 20 or 16.
    boxes = [torch.tensor([[3.0, 5, 60, 38]])]
    maps = {name: torch.randn(1, 2, -(-800 // s), -(-1333 // s)) for name, s in STRIDES.items()}
    fresh, used = RoIPooler(STRIDES), RoIPooler(STRIDES)
    used(constant_maps(40, 64), boxes)
    assert torch.equal(used(maps, boxes), fresh(maps, boxes))


@pytest.mark.parametrize("op", ["pool", "align"])
@pytest.mark.parametrize("boxes", [[squares(20)], [torch.zeros(0, 4)]], ids=["one level", "no region at all"])
def test_levels_without_regions_have_zero_gradients(op, boxes):
    convs = nn.ModuleDict({name: nn.Conv2d(1, 2, 1) for name in ("p2", "p3", "p4", "p5")})
    maps = {name: conv(constant_maps(128, 128)[name]) for name, conv in convs.items()}
    pooled = RoIPooler(STRIDES, op=op)(maps, boxes)
    assert pooled.shape == (len(boxes[0]), 2, 7, 7)
    pooled.sum().backward()
    moved = {name: bool(conv.weight.grad.any()) for name, conv in convs.items()}
    assert moved == {"p2": len(boxes[0]) > 0, "p3": False, "p4": False, "p5": False}


def test_half_precision_maps_are_pooled_with_exact_boxes():
    feature = torch.randn(1, 3, 200, 300).bfloat16()
    boxes = [torch.tensor([[1001.0, 503, 1099, 611]])]  # bfloat16 knows 1000 and 1008, nothing between
    pooled = RoIPooler({"p2": 4}, op="align")({"p2": feature}, boxes)
    assert pooled.dtype == torch.bfloat16  # as the weights of the box head
    assert torch.equal(pooled, RoIPooler({"p2": 4}, op="align")({"p2": feature.float()}, boxes).bfloat16())


@pytest.mark.parametrize(
    ("strides", "options", "message"),
    [
        ({"p6": 64}, {}, "consecutive levels up to p5, but the pyramid's maps are p6"),
        ({"p2": 4, "p4": 16}, {}, "consecutive levels"),
        (STRIDES, {"canonical_size": 0}, r"scale\.canonical_size is 0"),
    ],
)
def test_pyramids_that_cannot_be_pooled_from(strides, options, message):
    with pytest.raises(InputError, match=message):
        RoIPooler(strides, **options)

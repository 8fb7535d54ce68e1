from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fpn_lightning.data.transforms import Geometry, ResizeAndFlip, scaled_size
from fpn_lightning.errors import InputError
from fpn_lightning.structures import boxes_to_original

SIDE = st.integers(1, 700)
SIZE = st.tuples(SIDE, SIDE)


class TestScaledSize:
    @pytest.mark.parametrize(
        ("size", "rounding", "expected"),
        [
            ((480, 640), "nearest", (800, 1067)),  # 640 * 800 / 480 = 1066.67
            ((480, 640), "floor", (800, 1066)),
            ((640, 480), "nearest", (1067, 800)),
            ((500, 500), "nearest", (800, 800)),
            ((300, 600), "nearest", (667, 1333)),  # the longer side decides: 1333 / 600 = 2.2217, 666.5
            ((300, 600), "floor", (666, 1333)),
            ((1, 5000), "nearest", (1, 1333)),
            ((1, 5000), "floor", (1, 1333)),
        ],
    )
    def test_by_hand(self, size: tuple[int, int], rounding: str, expected: tuple[int, int]) -> None:
        assert scaled_size(size, 800, 1333, rounding) == expected

    @given(SIZE)
    def test_limits(self, size: tuple[int, int]) -> None:
        height, width = scaled_size(size, 800, 1333)
        assert max(height, width) <= 1333
        assert min(height, width) <= 800
        assert max(height, width) == 1333 or min(height, width) == 800
        assert scaled_size(size[::-1], 800, 1333) == (width, height)

    @settings(max_examples=40)
    @given(SIZE)
    def test_floor_is_torchvisions(self, size: tuple[int, int]) -> None:
        height, width = size
        # torchvision has no lower limit of one pixel.
        if max(size) / min(size) < 60:
            transform = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3)
            resized, _ = transform.resize(torch.zeros(3, height, width))
            assert scaled_size(size, 80, 133, "floor") == tuple(resized.shape[-2:])


class TestGeometry:
    def test_by_hand(self) -> None:
        boxes = np.array([[10.0, 20, 30, 60]])
        assert Geometry((100, 200), (200, 400)).map_boxes(boxes).tolist() == [[20, 40, 60, 120]]
        assert Geometry((100, 200), (200, 400), True).map_boxes(boxes).tolist() == [[340, 40, 380, 120]]
        assert Geometry((100, 200), (50, 400)).map_boxes(boxes).tolist() == [[20, 10, 60, 30]]

    @given(SIZE, SIZE, st.booleans())
    def test_and_back(self, size_orig: tuple[int, int], size: tuple[int, int], flipped: bool) -> None:
        height, width = size_orig
        boxes = np.array([[0, 0, width, height], [0.25 * width, 0.5 * height, 0.3 * width, 0.9 * height]])
        there = torch.from_numpy(Geometry(size_orig, size, flipped).map_boxes(boxes))
        back = boxes_to_original(there, torch.tensor(size), torch.tensor(size_orig), flipped)
        np.testing.assert_allclose(back.numpy(), boxes, atol=1e-9)


def objects(random: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Boxes of all sizes, some partly outside."""
    height, width = size
    centres = random.uniform(0, [width, height], (count, 2))
    extent = random.uniform(0.5, 1, (count, 2)) * 10 ** random.uniform(0, math.log10(max(size)), (count, 1))
    return np.concatenate((centres - extent / 2, centres + extent / 2), axis=1)


class TestAugment:
    @settings(max_examples=60)
    @given(
        st.tuples(st.integers(8, 300), st.integers(8, 300)),
        st.booleans(),
        st.integers(0, 30),
        st.integers(0, 2**32),
    )
    def test_albumentations_equals_the_plain_twin(
        self, size_orig: tuple[int, int], flipped: bool, count: int, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        transform = ResizeAndFlip(short_sides=(96,), max_side=160, min_box_size=1.0)
        geometry = Geometry(size_orig, scaled_size(size_orig, 96, 160), flipped)
        pixels = random.integers(0, 255, (*size_orig, 3), dtype=np.uint8)
        boxes_orig = objects(random, size_orig, count)
        # Boxes within 1e-3 px of the least size may fall on either side of it.
        sides = np.clip(geometry.map_boxes(boxes_orig), 0, np.tile(geometry.size[::-1], 2))
        sides = sides[:, 2:] - sides[:, :2]
        boxes_orig = boxes_orig[(np.abs(sides - 1) > 1e-3).all(axis=1)]
        one, other = (call(pixels, boxes_orig, geometry) for call in (transform.augment, transform.augment_plain))
        assert np.array_equal(one[0], other[0])
        assert one[0].shape[:2] == geometry.size
        assert one[2].tolist() == other[2].tolist()
        np.testing.assert_allclose(one[1], other[1], atol=1e-3)
        for pixels_out, boxes, kept in (one, other):
            assert (pixels_out.dtype, boxes.dtype, kept.dtype) == (np.uint8, np.float32, np.int64)

    @pytest.mark.parametrize("method", ["augment", "augment_plain"])
    @pytest.mark.parametrize("flipped", [False, True])
    def test_unusable_boxes_are_dropped_and_rows_follow(self, method: str, flipped: bool) -> None:
        transform = ResizeAndFlip(min_box_size=1.0)
        boxes = {
            "zero width": [10, 10, 10, 20],
            "whole": [0, 0, 80, 60],
            "inverted": [30, 10, 20, 20],
            "0.001 px": [10, 10, 10.001, 20],
            "outside": [80, 0, 90, 10],
            "partly outside": [-10, -10, 20, 20],
            "exactly 1 px": [10, 10, 10.5, 20],
            "0.98 px": [10, 10, 10.49, 20],
            "0.8 px inside": [79.6, 10, 99, 20],
        }
        pixels = np.zeros((60, 80, 3), dtype=np.uint8)
        geometry = Geometry((60, 80), (120, 160), flipped)
        _, out, kept = getattr(transform, method)(pixels, np.array(list(boxes.values()), dtype=float), geometry)
        assert [list(boxes)[row] for row in kept] == ["whole", "partly outside", "exactly 1 px"]
        expected = [[0, 0, 160, 120], [120, 0, 160, 40] if flipped else [0, 0, 40, 40]]
        np.testing.assert_allclose(out[:2], expected, atol=1e-4)

    @pytest.mark.parametrize("method", ["augment", "augment_plain"])
    def test_no_boxes(self, method: str) -> None:
        pixels = np.zeros((60, 80, 3), dtype=np.uint8)
        _, boxes, kept = getattr(ResizeAndFlip(), method)(pixels, np.zeros((0, 4)), Geometry((60, 80), (30, 40), True))
        assert (boxes.shape, kept.shape) == ((0, 4), (0,))

    def test_pixels_are_mirrored_with_the_boxes(self) -> None:
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels[10:20, 5:25] = 255
        geometry = Geometry((40, 60), (80, 120), True)
        out, boxes, _ = ResizeAndFlip().augment(pixels, np.array([[5.0, 10, 25, 20]]), geometry)
        x1, y1, x2, y2 = np.rint(boxes[0]).astype(int)
        assert (x1, y1, x2, y2) == (70, 20, 110, 40)
        assert out[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() == 255
        out[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = 0
        assert out.max() == 0


class TestRandomness:
    SIZE = (60, 80)

    def draws(self, transform: ResizeAndFlip, epoch: int = 0, count: int = 400) -> list[Geometry]:
        return [transform.training_geometry(self.SIZE, image_id, epoch) for image_id in range(count)]

    def test_function_of_seed_epoch_and_image(self) -> None:
        transform = ResizeAndFlip(short_sides=(60, 90), max_side=200)
        draws = self.draws(transform)
        assert draws == self.draws(ResizeAndFlip(short_sides=(60, 90), max_side=200))
        assert draws != self.draws(transform, epoch=1)
        assert draws != self.draws(ResizeAndFlip(short_sides=(60, 90), max_side=200, seed=1))

    def test_frequencies(self) -> None:
        draws = self.draws(ResizeAndFlip(short_sides=(60, 90), max_side=200), count=2000)
        # Four standard deviations of 2000 coin flips are 90.
        assert abs(sum(draw.flipped for draw in draws) - 1000) < 90
        assert abs(sum(draw.size == (60, 80) for draw in draws) - 1000) < 90
        assert abs(sum(draw.flipped and draw.size == (60, 80) for draw in draws) - 500) < 80
        assert {draw.size for draw in draws} == {(60, 80), (90, 120)}

    @pytest.mark.parametrize("probability", [0.0, 1.0])
    def test_never_and_always(self, probability: float) -> None:
        assert {draw.flipped for draw in self.draws(ResizeAndFlip(flip_probability=probability))} == {probability == 1}

    def test_flip_does_not_depend_on_the_scales(self) -> None:
        one, two = (self.draws(ResizeAndFlip(short_sides=sides)) for sides in ((60,), (60, 90)))
        assert [draw.flipped for draw in one] == [draw.flipped for draw in two]

    def test_evaluation_uses_the_last_scale(self) -> None:
        geometry = ResizeAndFlip(short_sides=(60, 90), max_side=200, flip_probability=1.0).evaluation_geometry((60, 80))
        assert geometry == Geometry((60, 80), (90, 120), False)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("short_side", {"short_sides": ()}),
        ("short_side", {"short_sides": (800, 0)}),
        ("max_side", {"max_side": 0}),
        ("size_rounding", {"rounding": "up"}),
        ("flip_probability", {"flip_probability": 1.5}),
        ("min_box_size", {"min_box_size": -1.0}),
        ("seed", {"seed": -1}),
    ],
)
def test_wrong_values_are_named(key: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"data\.{key} "):
        ResizeAndFlip(**options)

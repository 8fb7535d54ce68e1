from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fpn_lightning.data.transforms import ResizeAndFlip, augment, resize, scaled_size, usable_boxes
from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry

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


class TestPixels:
    @settings(max_examples=60)
    @given(
        st.tuples(st.integers(8, 300), st.integers(8, 300)),
        st.booleans(),
        st.booleans(),
        st.integers(0, 2**32),
    )
    def test_albumentations_equals_the_plain_twin(
        self, size_orig: tuple[int, int], flipped: bool, cropped: bool, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        height, width = size_orig
        window = (width // 4, height // 5, width - width // 8, height) if cropped else None
        geometry = Geometry(size_orig, scaled_size(size_orig, 96, 160), flipped, window)
        pixels = random.integers(0, 255, (*size_orig, 3), dtype=np.uint8)
        one, other = augment(pixels, geometry), resize(pixels, geometry)
        assert np.array_equal(one, other)
        assert one.shape == (*geometry.size, 3)
        assert one.dtype == other.dtype == np.uint8

    def test_pixels_are_mirrored_with_the_boxes(self) -> None:
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels[10:20, 5:25] = 255
        geometry = Geometry((40, 60), (80, 120), True)
        out = augment(pixels, geometry)
        boxes, _ = usable_boxes(np.array([[5.0, 10, 25, 20]]), geometry, 1.0)
        assert boxes.tolist() == [[70, 20, 110, 40]]
        x1, y1, x2, y2 = boxes[0].astype(int)
        assert out[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() == 255
        out[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = 0
        assert out.max() == 0


class TestBoxes:
    @pytest.mark.parametrize("flipped", [False, True])
    def test_unusable_boxes_are_left_out_and_the_others_are_named(self, flipped: bool) -> None:
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
        geometry = Geometry((60, 80), (120, 160), flipped)
        out, kept = usable_boxes(np.array(list(boxes.values()), dtype=float), geometry, 1.0)
        assert [list(boxes)[i] for i in kept] == ["whole", "partly outside", "exactly 1 px"]
        assert out[:2].tolist() == [[0, 0, 160, 120], [120, 0, 160, 40] if flipped else [0, 0, 40, 40]]
        assert (out.dtype, kept.dtype) == (np.float32, np.int64)

    @given(SIZE, st.booleans(), st.integers(1, 30), st.integers(0, 2**32))
    def test_they_are_rounded_once(self, size_orig: tuple[int, int], flipped: bool, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        geometry = Geometry(size_orig, scaled_size(size_orig, 800, 1333), flipped)
        boxes_orig = random.uniform(0, 1, (count, 4)) * (size_orig[::-1] * 2)
        boxes, kept = usable_boxes(boxes_orig, geometry, 1.0)
        exact = np.clip(geometry.to_network(boxes_orig), 0, geometry.size[::-1] * 2)[kept]
        assert np.array_equal(boxes, exact.astype(np.float32))

    def test_no_boxes(self) -> None:
        boxes, kept = usable_boxes(np.zeros((0, 4)), Geometry((60, 80), (30, 40), True), 1.0)
        assert (boxes.shape, kept.shape) == ((0, 4), (0,))


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
        transform = ResizeAndFlip(short_sides=(60, 90), max_side=200, flip_probability=1.0, random_crop=0.5)
        geometry = transform.evaluation_geometry((60, 80))
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
        ("random_crop", {"random_crop": -0.5}),
        ("random_crop", {"random_crop": 0.0}),
        ("random_crop", {"random_crop": 1.5}),
    ],
)
def test_wrong_values_are_named(key: str, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"data\.{key} "):
        ResizeAndFlip(**options)

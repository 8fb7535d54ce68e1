"""The random crop of training: what is drawn, and that pixels, boxes, masks and proposals follow it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api

from fpn_lightning.data.dataset import Sample
from fpn_lightning.data.transforms import ResizeAndFlip
from fpn_lightning.geometry import Geometry
from fpn_lightning.models.masks.targets import mask_targets

from .builders import document, many_images, small_module, write_split, write_store

SIZE = (60, 80)


def draws(count: int = 500, epoch: int = 0, **options: object) -> list[Geometry]:
    transform = ResizeAndFlip(short_sides=(60, 90), max_side=200, **options)
    return [transform.training_geometry(SIZE, image_id, epoch) for image_id in range(count)]


def sides(geometry: Geometry) -> tuple[int, int]:
    left, top, right, bottom = geometry.window
    return bottom - top, right - left


class TestDraws:
    def test_function_of_seed_epoch_and_image(self) -> None:
        first = draws(random_crop=0.5)
        assert first == draws(random_crop=0.5)
        windows = [geometry.window for geometry in first]
        assert len(set(windows)) > 400
        assert windows != [geometry.window for geometry in draws(random_crop=0.5, epoch=1)]
        assert windows != [geometry.window for geometry in draws(random_crop=0.5, seed=1)]

    def test_flips_and_scales_are_those_without_it(self) -> None:
        whole, cropped = draws(), draws(random_crop=1.0)  # of the whole image, so that sizes can be compared
        assert {geometry.window for geometry in whole} == {None}
        assert {geometry.window for geometry in cropped} == {(0, 0, 80, 60)}
        assert [(one.flipped, one.size) for one in whole] == [(one.flipped, one.size) for one in cropped]
        assert [one.flipped for one in whole] == [one.flipped for one in draws(random_crop=0.3)]

    def test_windows_lie_inside_and_reach_every_border(self) -> None:
        windows = np.array([geometry.window for geometry in draws(3000, random_crop=0.5)])
        assert windows.min(axis=0).tolist() == [0, 0, 40, 30]
        assert windows.max(axis=0).tolist() == [40, 30, 80, 60]
        extent = windows[:, 2:] - windows[:, :2]
        assert (extent.min(axis=0).tolist(), extent.max(axis=0).tolist()) == ([40, 30], [80, 60])
        # Widths are uniform over 40..80 and drawn apart from heights.
        assert abs(extent[:, 0].mean() - 60) < 1
        assert abs(np.corrcoef(extent.T)[0, 1]) < 0.08

    def test_what_is_left_is_scaled_as_an_image_would_be(self) -> None:
        transform = ResizeAndFlip(short_sides=(60,), max_side=90, random_crop=0.3)
        for image_id in range(50):
            geometry = transform.training_geometry(SIZE, image_id, 0)
            assert geometry.size == transform.evaluation_geometry(sides(geometry)).size

    def test_the_smallest_part_is_a_pixel(self) -> None:
        transform = ResizeAndFlip(short_sides=(8,), max_side=16, random_crop=0.01)
        for image_id in range(100):
            geometry = transform.training_geometry((3, 2), image_id, 0)
            assert min(sides(geometry)) >= 1
            assert min(geometry.size) >= 1


def by_id(samples: list[Sample]) -> dict[int, Sample]:
    return {sample.image_id: sample for sample in samples}


class TestSamples:
    def test_boxes_and_pixels_follow_the_window(self, tmp_path: Path) -> None:
        # One white rectangle an image, which is its object: where it is in the network input its box has to be.
        content = many_images(40)
        write_split(tmp_path, "train2017", content)
        for image, item in zip(content["images"], content["annotations"], strict=True):
            pixels = np.zeros((image["height"], image["width"], 3), dtype=np.uint8)
            x, y, width, height = item["bbox"]
            pixels[y : y + height, x : x + width] = 255
            cv2.imwrite(str(tmp_path / "train2017" / image["file_name"]), pixels)
        data = small_module(tmp_path, short_side=120, max_side=300, random_crop=0.3, min_box_size=4.0)
        dataset = data.train_dataloader().dataset
        dropped, flipped, cut = 0, 0, 0
        for sample in (dataset[place, epoch] for place in range(40) for epoch in range(4)):
            rows, columns = np.nonzero(sample.pixels[:, :, 0] > 127)
            if not len(sample.targets.boxes):
                dropped += 1
                assert len(rows) == 0 or min(np.ptp(rows), np.ptp(columns)) < 6
                continue
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            # Interpolation blurs a border by at most half a pixel of the file.
            left, top, right, bottom = sample.geometry.window
            scale = max(sample.geometry.size[0] / (bottom - top), sample.geometry.size[1] / (right - left))
            np.testing.assert_allclose(sample.targets.boxes[0].numpy(), seen, atol=0.5 * scale + 1)
            flipped += sample.geometry.flipped
            x, y, width, height = sample.ground_truth.boxes_xywh[0]
            cut += left > x or top > y or right < x + width or bottom < y + height
        assert dropped > 0
        assert flipped > 20
        assert cut > 20

    @pytest.mark.parametrize("flip_probability", [0.0, 1.0])
    def test_all_equals_what_the_cropped_image_gives(self, tmp_path: Path, flip_probability: float) -> None:
        """Crop the image file and its annotations by hand, and load that without a crop."""
        options = {"load_masks": True, "flip_probability": flip_probability, "min_box_size": 3.0}
        (tmp_path / "whole").mkdir()
        write_split(tmp_path / "whole", "train2017", document())
        data = small_module(tmp_path / "whole", random_crop=0.4, **options)
        whole = data.train_dataloader().dataset[0, 0]
        left, top, right, bottom = whole.geometry.window
        content = document()
        content["images"] = [image for image in content["images"] if image["id"] == 7]
        content["images"][0].update(height=bottom - top, width=right - left)
        for item, mask in zip(content["annotations"], whole.ground_truth.masks, strict=True):
            x, y, width, height = item["bbox"]
            item["bbox"] = [x - left, y - top, width, height]
            part = np.asfortranarray(mask_api.decode(mask)[top:bottom, left:right])
            item["segmentation"] = {"size": list(part.shape), "counts": mask_api.encode(part)["counts"].decode()}
        write_split(tmp_path / "part", "train2017", content)
        pixels = cv2.imread(str(tmp_path / "whole" / "train2017" / "a.png"))[top:bottom, left:right]
        cv2.imwrite(str(tmp_path / "part" / "train2017" / "a.png"), pixels)
        data = small_module(tmp_path / "part", **options)
        part = data.train_dataloader().dataset[0, 0]
        assert np.array_equal(whole.pixels, part.pixels)
        np.testing.assert_allclose(whole.targets.boxes.numpy(), part.targets.boxes.numpy(), atol=1e-5)
        assert whole.targets.labels.tolist() == part.targets.labels.tolist()
        assert len(whole.targets.boxes) > 0
        windows = np.array([[0.0, 0, 30, 30], [-9, -9, 40, 40]])
        for i in range(len(whole.targets.boxes)):
            one, other = (
                mask_targets(sample.targets.masks, np.full(2, i), windows, sample.geometry, 7)
                for sample in (whole, part)
            )
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_proposals_follow_the_window(self, root: Path, tmp_path: Path) -> None:
        data = small_module(root)
        index = data.train_dataloader().dataset.index
        fingerprint = {"split": "train2017", "fingerprint": index.fingerprint}
        write_store(tmp_path / "stores" / "train2017", index.image_ids.tolist(), **fingerprint)
        data = small_module(root, random_crop=0.4, proposals=str(tmp_path / "stores"))
        dataset = data.train_dataloader().dataset
        changed = 0
        for place in range(len(dataset)):
            sample = dataset[place, 0]
            stored = dataset.proposals.read(sample.image_id)
            left, top, right, bottom = sample.geometry.window
            clipped = np.clip(stored.boxes_orig.astype(float), [left, top] * 2, [right, bottom] * 2)
            kept = ((clipped[:, 2:] - clipped[:, :2]) > 1e-9).all(axis=1)
            back = sample.geometry.to_image(sample.proposals.boxes.numpy())
            np.testing.assert_allclose(back, clipped[kept], atol=1e-4)
            assert sample.proposals.objectness.tolist() == stored.objectness[kept].tolist()
            changed += int((clipped != stored.boxes_orig).any())
        assert changed > 5

    def test_evaluation_is_never_cropped(self, root: Path) -> None:
        plain, cropping = small_module(root), small_module(root, random_crop=0.1, predict_split="train2017")
        for one, other in zip(plain.val_dataloader(), cropping.val_dataloader(), strict=True):
            assert other.images.geometries == one.images.geometries
            assert (other.images.pixels == one.images.pixels).all()
        for batch in cropping.predict_dataloader():
            assert batch.images.geometries[0].window is None
        assert all(
            geometry.window is not None
            for batch in islice(cropping.train_dataloader(), 5)
            for geometry in batch.images.geometries
        )

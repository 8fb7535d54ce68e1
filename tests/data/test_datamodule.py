from __future__ import annotations

from collections import Counter
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch.nn.functional import interpolate

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import POSITIVE, COCODataModule
from fpn_lightning.data.images import read_image
from fpn_lightning.errors import InputError
from fpn_lightning.geometry import Geometry
from fpn_lightning.structures import Batch

from .builders import annotation, document, many_images, small_module, write_json, write_split


class TestBatches:
    def test_validation_by_hand(self, tmp_path: Path) -> None:
        write_split(tmp_path, "val2017", document())
        batches = list(small_module(tmp_path, short_side=120, max_side=200, size_divisor=64).val_dataloader())
        images, (targets,), (annotated,) = batches[0].images, batches[0].targets, batches[0].ground_truths
        assert images.image_ids.tolist() == [7]
        assert (images.sizes.tolist(), images.geometries) == ([[120, 160]], [Geometry((60, 80), (120, 160))])
        assert (images.pixels.shape, images.pixels.dtype) == ((1, 3, 128, 192), torch.uint8)
        assert images.pixels[:, :, 120:].max() == images.pixels[..., 160:].max() == 0
        # Exact, with the crowd region, in the file's order; only training's part leaves crowd out.
        assert annotated.boxes_xywh.tolist() == [[10.1, 10.2, 10.5, 10.25], [0, 0, 30, 30], [0, 0, 80, 60]]
        assert annotated.boxes_orig.tolist()[1:] == [[0, 0, 30, 30], [0, 0, 80, 60]]
        assert annotated.boxes_xywh.dtype == annotated.areas.dtype == annotated.boxes_orig.dtype == np.float64
        assert annotated.is_crowd.tolist() == [False, False, True]
        assert annotated.labels.tolist() == [1, 0, 0]
        assert (annotated.image_id, annotated.annotation_ids.tolist()) == (7, [12, 11, 13])
        assert (targets.labels.tolist(), targets.labels.dtype) == ([1, 0], torch.int64)
        expected = [[20.2, 20.4, 41.2, 40.9], [0, 0, 60, 60]]
        torch.testing.assert_close(targets.boxes, torch.tensor(expected), atol=1e-5, rtol=0)
        assert targets.masks == annotated.masks == []
        assert [len(batches[1].targets[0].boxes), len(batches[1].ground_truths[0].labels)] == [0, 0]

    def test_masks_belong_to_the_objects_that_are_left(self, tmp_path: Path) -> None:
        content = document()
        content["annotations"][0]["bbox"] = [10, 10, 0, 5]  # left out of training
        content["annotations"][1]["segmentation"] = [[0, 0, 30, 0, 30, 30, 0, 30]]
        write_split(tmp_path, "val2017", content)
        batch = next(iter(small_module(tmp_path, load_masks=True).val_dataloader()))
        assert [int(mask_api.area(mask)) for mask in batch.targets[0].masks] == [900]
        assert [int(mask_api.area(mask)) for mask in batch.ground_truths[0].masks] == [100, 900, 100]

    def test_pixels_are_the_resized_image(self, root: Path) -> None:
        first = next(iter(small_module(root, short_side=24, max_side=50).val_dataloader())).images
        second = next(iter(small_module(root, short_side=48, max_side=100).val_dataloader())).images
        same, double = first.pixels[:, :, :24, :32], second.pixels[:, :, :48, :64]
        expected = interpolate(same.double(), scale_factor=2, mode="bilinear")
        assert (double.double() - expected).abs().max() <= 1.01

    def test_real_images(self, coco_mini: Path) -> None:
        """An independent resize (torchvision's arithmetic) of real pictures, and boxes scaled by hand."""
        data = COCODataModule(str(coco_mini), num_workers=0, short_side=200, max_side=333, load_masks=True)
        for batch in islice(data.val_dataloader(), 5):
            image_id, (height, width) = int(batch.images.image_ids), batch.images.sizes[0].tolist()
            height_orig, width_orig = batch.images.geometries[0].size_orig
            (targets,), (annotated,) = batch.targets, batch.ground_truths
            x1, y1, w, h = torch.from_numpy(annotated.boxes_xywh[~annotated.is_crowd]).unbind(1)
            expected = torch.stack((x1, y1, x1 + w, y1 + h), 1) * torch.tensor(
                [width / width_orig, height / height_orig] * 2, dtype=torch.float64
            )
            torch.testing.assert_close(targets.boxes.double(), expected, atol=1e-4, rtol=0)
            assert len(annotated.masks) == len(annotated.labels)
            assert len(targets.masks) == len(targets.boxes)
            assert min(height, width) == 200 or max(height, width) == 333
            assert (coco_mini / "val2017" / f"{image_id:012}.jpg").is_file()

    def test_training_follows_geometry(self, root: Path) -> None:
        data = small_module(root)
        flips = []
        for batch in islice(data.train_dataloader(), 12):
            flips += [geometry.flipped for geometry in batch.images.geometries]
            for geometry, targets, annotated in zip(
                batch.images.geometries, batch.targets, batch.ground_truths, strict=True
            ):
                (x, y, w, h), scale = annotated.boxes_xywh[0].tolist(), 30 / 24
                x = geometry.size[1] / scale - x - w if geometry.flipped else x
                expected = torch.tensor([[x, y, x + w, y + h]]) * scale
                torch.testing.assert_close(targets.boxes, expected, atol=1e-5, rtol=0)
        assert len(set(flips)) == 2

    def test_same_for_any_number_of_workers(self, root: Path) -> None:
        runs = [
            list(islice(small_module(root, num_workers=n, short_side=[24, 30]).train_dataloader(), 14)) for n in (0, 2)
        ]
        for one, other in zip(*runs, strict=True):
            assert torch.equal(one.images.pixels, other.images.pixels)
            assert torch.equal(one.images.image_ids, other.images.image_ids)
            assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(one.targets, other.targets, strict=True))

    def test_cached_images_are_the_same_and_read_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reads: Counter[Path] = Counter()

        def count(path: Path, **options: Any) -> NDArray[np.uint8]:
            reads[path] += 1
            return read_image(path, **options)

        monkeypatch.setattr("fpn_lightning.data.dataset.read_image", count)
        batches: list[list[Batch]] = []
        for cache in (False, True):
            reads.clear()
            module = small_module(root, cache_images=cache)
            passes = chain.from_iterable(repeat(module.train_dataloader()))
            batches.append([*islice(passes, 24), *module.val_dataloader(), *module.val_dataloader()])
        assert set(reads.values()) == {1}
        assert {geometry.flipped for batch in batches[0] for geometry in batch.images.geometries} == {False, True}
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one.images.pixels, other.images.pixels)
            assert one.images.geometries == other.images.geometries
        for wrong in ({"num_workers": 1}, {"random_crop": 0.5}, {"short_side": [24, 30]}):
            with pytest.raises(InputError, match=r"data\.cache_images needs a single process and one fixed size"):
                small_module(root, cache_images=True, **wrong)

    def test_epochs_and_seeds_differ(self, root: Path) -> None:
        def flips(seed: int) -> dict[int, list[bool]]:
            seen: dict[int, list[bool]] = {}
            passes = chain.from_iterable(repeat(small_module(root, seed=seed, num_workers=1).train_dataloader()))
            for images in (batch.images for batch in islice(passes, 46)):
                for image_id, geometry in zip(images.image_ids.tolist(), images.geometries, strict=True):
                    seen.setdefault(image_id, []).append(geometry.flipped)
            return seen

        first = flips(0)
        assert all(len(each) == 4 for each in first.values())  # four epochs
        assert any(len(set(each)) == 2 for each in first.values())
        assert first == flips(0) != flips(1)

    def test_split_without_annotations(self, root: Path) -> None:
        (root / "test2017").mkdir()
        for name in ("a.png", "b.png"):
            write_split(root, "unused", document())
            (root / "unused" / name).rename(root / "test2017" / name)
        listed = document(annotations=None, categories=None)
        write_json(root / "annotations" / "image_info_test-dev2017.json", listed)
        batches = list(small_module(root, test_split="test-dev2017").test_dataloader())
        assert [batch.images.image_ids.tolist() for batch in batches] == [[7], [9]]
        assert all(batch.targets == batch.ground_truths == [] for batch in batches)

    def test_evaluation_batches(self, root: Path) -> None:
        batches = list(small_module(root, eval_batch_size=3, size_divisor=1).val_dataloader())
        assert [batch.images.image_ids.tolist() for batch in batches] == [[1, 2, 3], [4, 5]]
        assert batches[0].images.pixels.shape == (3, 3, 40, 40)  # two landscape, one portrait
        assert list(small_module(root, max_val_images=2).val_dataloader())[-1].images.image_ids.tolist() == [2]


class TestSetup:
    def test_counts_describe_and_categories(self, root: Path) -> None:
        content = many_images(23)
        content["annotations"][4]["bbox"] = [1, 1, 0, 5]
        write_split(root, "train2017", content)
        data = small_module(root)
        data.setup("fit")
        assert {reason: count for reason, count in data.dropped.items() if count} == {
            "empty": 1,
            "images_without_objects": 1,
        }
        assert data.describe("train2017")["num_images"] == data.describe("train")["num_images"] == 22
        description = data.describe("val2017")
        assert len(description.pop("fingerprint")) == 64
        assert description == {"name": "two images", "split": "val2017", "num_images": 5}
        assert data.categories == Categories((1, 3), ("person", "car"))
        with pytest.raises(InputError, match="there is no split 'other'"):
            data.describe("other")

    def test_wrong_data(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"data\.num_classes is 80.*2 categories"):
            small_module(root, num_classes=80).setup("fit")
        with pytest.raises(InputError, match=r"nowhere is missing.*data\.download --root"):
            small_module(tmp_path / "nowhere").setup("fit")
        with pytest.raises(InputError, match=r"data\.test_split is not set"):
            small_module(root).test_dataloader()
        swapped = document(categories=[{"id": 1, "name": "car"}, {"id": 3, "name": "person"}])
        write_split(root, "val2017", swapped)
        with pytest.raises(InputError, match="categories"):
            small_module(root).setup("fit")

    def test_wrong_image_is_named_in_a_worker(self, root: Path) -> None:
        (root / "val2017" / "0002.png").write_bytes(b"")
        with pytest.raises(InputError, match=r"0002\.png \(image 2\): the image file is empty"):
            list(small_module(root, num_workers=1).val_dataloader())

    def test_masks_asked_for_but_missing(self, root: Path) -> None:
        write_split(root, "val2017", document(annotations=[annotation(5, 7, 1, [0, 0, 5, 5])]))
        with pytest.raises(InputError, match=r"annotation 5 \(image 7\) has no segmentation"):
            list(small_module(root, load_masks=True).val_dataloader())

    @pytest.mark.parametrize("key", [*POSITIVE, "num_workers"])
    def test_wrong_values(self, root: Path, key: str) -> None:
        with pytest.raises(InputError, match=rf"data\.{key} is -1; it has to be at least [01]"):
            small_module(root, **{key: -1})

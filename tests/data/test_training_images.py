from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.data.training_images import training_images
from fpn_lightning.data.transforms import ResizeAndFlip
from fpn_lightning.errors import InputError

from .builders import annotation, document, one_object, write_json


class TestTrainingRows:
    def test_reasons_by_hand(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        boxes = {
            1: [5, 5, -3, 4],  # inverted
            2: [5, 5, 0, 4],  # empty
            3: [80, 5, 4, 4],  # outside: image 7 is 80 px wide
            4: [5, 5, 0.4, 4],  # 0.8 px at twice the size
            5: [79.6, 5, 9, 9],  # 0.4 px of it inside: 0.8 px
            6: [5, 5, 0.5, 4],  # exactly 1 px
        }
        annotations = [annotation(i, 7, 1, list(map(float, box))) for i, box in boxes.items()]
        annotations.append(annotation(7, 9, 1, [0, 0, -1, 4], iscrowd=1))
        index = COCOIndex.open(write_json(tmp_path / "a.json", document(annotations=annotations)))
        transform = ResizeAndFlip(short_sides=(120,))
        places, counts = training_images(index, transform)
        assert counts == {
            "inverted": 1, "empty": 1, "outside": 1, "small": 2, "crowd": 1, "images_without_objects": 1
        }  # fmt: skip
        assert places.tolist() == [0]
        places, counts = training_images(index, transform, skip_images_without_objects=False)
        assert (places.tolist(), counts["images_without_objects"]) == ([0, 1], 0)
        caplog.set_level(logging.INFO)
        places, counts = training_images(index, transform, skip_images_without_objects=False, limit=1)
        assert (places.tolist(), counts["images_over_the_limit"]) == ([0], 1)
        assert "training on 1 images; " in caplog.messages[-1]
        assert index.objects_of(0).boxes_xywh.tolist() == list(boxes.values())  # evaluation sees them all

    def test_nothing_to_train_on(self, tmp_path: Path) -> None:
        index = COCOIndex.open(write_json(tmp_path / "a.json", one_object(iscrowd=1)))
        with pytest.raises(InputError, match=r"a\.json: all 1 objects are crowd regions \('iscrowd' is 1\)"):
            training_images(index, ResizeAndFlip())
        index = COCOIndex.open(write_json(tmp_path / "c.json", one_object(bbox=[5, 5, -1, 4])))
        with pytest.raises(InputError, match=r"c\.json: none of its 1 objects can be trained on \(1 inverted\)"):
            training_images(index, ResizeAndFlip())
        index = COCOIndex.open(write_json(tmp_path / "b.json", document(annotations=None)))
        with pytest.raises(InputError, match=r"b\.json has no annotations"):
            training_images(index, ResizeAndFlip())

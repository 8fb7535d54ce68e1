"""Finished runs as models with their validation split, and images of it worth looking at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.data.dataset import COCODataset, Collate
from fpn_lightning.errors import InputError
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint
from fpn_lightning.weights.init_from import check_fits


def find_finished(runs: Path, preset: str, table: str, seed: int, row: str | None = None) -> list[Path]:
    """Directories of the finished runs of a table, one a row, by name; of one ``row`` only, if it is given.

    Raises:
        InputError: there is none.
    """
    folder, pattern = runs / preset / table, f"{row or '*'}/seed{seed}/metrics.json"
    found = sorted(record.parent for record in folder.glob(pattern))
    if not found:
        raise InputError(f"{folder} holds no finished run with seed {seed}: no {pattern}")
    return found


class FinishedRun:
    """A run directory with its configuration and last checkpoint.

    Args:
        directory: ``runs/<preset>/<table>/<row>/seed<n>``.
        data_root: where the data set lies now, if not where the run had it.

    Attributes:
        row: its name in the table.
        step: optimiser steps the checkpoint was trained for; known after :meth:`load`.

    Raises:
        InputError: configuration or checkpoint are missing.
    """

    def __init__(self, directory: Path, data_root: str | None = None) -> None:
        self.config_path = directory / "config.yaml"
        self.checkpoint_path = directory / "checkpoints" / "last.ckpt"
        for path in (self.config_path, self.checkpoint_path):
            if not path.is_file():
                raise InputError(f"{path} is missing, so that run cannot be drawn; train the row again or move it away")
        self.row = directory.parent.name
        self.data_root = data_root
        self.step = 0

    def load(self) -> tuple[BaseStage, COCODataset, Collate]:
        """The trained stage and its validation split; no code of the file is run.

        Raises:
            InputError: a file is broken, or the two do not fit each other.
        """
        config = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        if self.data_root is not None:
            config["data"]["root"] = self.data_root
        parser = LightningArgumentParser()
        parser.add_lightning_class_args(BaseStage, "model", subclass_mode=True)
        parser.add_lightning_class_args(COCODataModule, "data")
        built = parser.instantiate_classes(parser.parse_object({key: config[key] for key in ("model", "data")}))
        checkpoint = read_checkpoint(str(self.checkpoint_path), f"the run of {self.config_path}")
        state = detector_state(checkpoint)
        check_fits(built.model.detector, state, str(self.checkpoint_path))
        built.model.detector.load_state_dict(state)
        self.step = int(checkpoint["global_step"])
        built.model.take_categories(checkpoint)
        built.data.setup("validate")
        loader = built.data.val_dataloader()
        return built.model, loader.dataset, loader.collate_fn

    def place(self, dataset: COCODataset, image_id: int) -> int:
        """Place of an image in the validation split.

        Raises:
            InputError: the run was not validated on it.
        """
        found = np.flatnonzero(dataset.index.image_ids[dataset.places] == image_id)
        if not len(found):
            raise InputError(f"{dataset.index.annotation_file} has no image {image_id} that {self.config_path} uses")
        return int(found[0])


def varied_images(dataset: COCODataset, area_thresholds: tuple[float, float], count: int) -> list[int]:
    """Ids of the images whose objects are of the most size classes, the lowest ids among equals.

    Args:
        dataset: a split.
        area_thresholds: px² that part small from medium and medium from large; crowd regions do not count.
        count: how many; fewer where the split has fewer.
    """
    classes = []
    for row in dataset.places.tolist():
        objects = dataset.index.objects_of(row)
        classes.append(len(np.unique(np.searchsorted(area_thresholds, objects.areas[~objects.is_crowd], side="right"))))
    places = np.argsort(-np.asarray(classes), kind="stable")[:count]
    return dataset.index.image_ids[dataset.places[places]].tolist()

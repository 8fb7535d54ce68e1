from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.structures import Batch

from .builders import small_module


class Recorder(pl.LightningModule):
    """Keeps the image ids, and in training the flips, of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int], list[bool]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        images = batch.images
        self.seen.append(
            (self.global_step, images.image_ids.tolist(), [geometry.flipped for geometry in images.geometries])
        )
        return self.layer(images.pixels.float().mean().reshape(1, 1)).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += batch.images.image_ids.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(data: COCODataModule, folder: Path, checkpoint: Path | None = None, **options: Any) -> Recorder:
    recorder = Recorder()
    common: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "accumulate_grad_batches": data.accumulation_steps(1),
        "check_val_every_n_epoch": None,
        "val_check_interval": 4,
    }
    trainer = pl.Trainer(**(common | {"max_epochs": -1} | options))
    trainer.fit(recorder, data, ckpt_path=checkpoint)
    return recorder


def save_at(step: int, folder: Path) -> pl.Callback:
    return pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=step, save_top_k=-1)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
class TestResume:
    @pytest.mark.parametrize(("workers", "per_device"), [(0, 4), (2, 2)])
    def test_equals_an_uninterrupted_run(self, root: Path, tmp_path: Path, workers: int, per_device: int) -> None:
        options = {"num_workers": workers, "batch_size_per_device": per_device}
        whole = fit(small_module(root, **options), tmp_path, max_steps=8, enable_checkpointing=False)
        accumulation = 4 // per_device
        assert [step for step, _, _ in whole.seen] == [step for step in range(8) for _ in range(accumulation)]
        fit(small_module(root, **options), tmp_path, max_steps=8, callbacks=[save_at(3, tmp_path), Stop(3)])
        resumed = fit(
            small_module(root, **options), tmp_path, tmp_path / "step=3.ckpt", max_steps=8, enable_checkpointing=False
        )
        assert resumed.seen == whole.seen[3 * accumulation :]

    def test_finished_run_with_more_steps(self, root: Path, tmp_path: Path) -> None:
        whole = fit(small_module(root), tmp_path, max_steps=8, enable_checkpointing=False, val_check_interval=2)
        fit(small_module(root), tmp_path, max_steps=4, callbacks=[save_at(4, tmp_path)], val_check_interval=2)
        resumed = fit(
            small_module(root),
            tmp_path,
            tmp_path / "step=4.ckpt",
            max_steps=8,
            enable_checkpointing=False,
            val_check_interval=2,
        )
        assert resumed.seen == whole.seen[8:]

    def test_epochs(self, root: Path, tmp_path: Path) -> None:
        """If only epochs are given, an epoch has 23 / 4 -> 6 steps; a run saved at its end continues with the next."""
        options: dict[str, Any] = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0, "max_epochs": 2}
        whole = fit(small_module(root), tmp_path, **options, enable_checkpointing=False)
        assert len(whole.seen) == 2 * 6 * 2
        assert whole.validated == [1, 2, 3, 4, 5] * 2
        saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_on_train_epoch_end=True)
        fit(small_module(root), tmp_path, **(options | {"max_epochs": 1}), callbacks=[saved])
        resumed = fit(small_module(root), tmp_path, tmp_path / "step=6.ckpt", **options, enable_checkpointing=False)
        assert resumed.seen == whole.seen[12:]

    def test_accumulation_has_to_make_the_total(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"accumulate_grad_batches is 1; set it to 2"):
            fit(small_module(root), tmp_path, accumulate_grad_batches=1, max_steps=2)


class Stop(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


class Gathered(Recorder):
    """Writes what this process saw."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_fit_end(self) -> None:
        rank = self.global_rank
        torch.save({"seen": [ids for _, ids, _ in self.seen], "validated": self.validated}, self.folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_two_processes_equal_one(root: Path, tmp_path: Path) -> None:
    """Global batches are the same sets in the same order; every validation image is seen once."""
    data = small_module(root, batch_size_per_device=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        max_steps=5,
        max_epochs=-1,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        val_check_interval=10,
    )
    trainer.fit(Gathered(tmp_path), data)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    two = [image for ids in zip(*(rank["seen"] for rank in ranks), strict=True) for one in ids for image in one]
    one = fit(small_module(root, batch_size_per_device=4), tmp_path, max_steps=5, enable_checkpointing=False)
    assert two == [image for _, ids, _ in one.seen for image in ids]
    assert sorted(ranks[0]["validated"] + ranks[1]["validated"]) == [1, 2, 3, 4, 5]
    assert abs(len(ranks[0]["validated"]) - len(ranks[1]["validated"])) == 1

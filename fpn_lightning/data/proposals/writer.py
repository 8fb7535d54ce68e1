"""Write a proposal store: every process writes one shard, then the first process completes the store.

An earlier store in the same folder stays readable until the new header replaces the old header; then the old shards
are deleted. A writer that is killed leaves hidden files, which the next writer overwrites.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.proposals.header import HEADER, IMAGE, PROPOSAL, ProposalHeader
from fpn_lightning.errors import InputError
from fpn_lightning.files import open_alone, write_whole, writing


class ShardWriter:
    """Writes the shard of one process, image by image.

    Args:
        folder: folder of the store; created if missing.
        rank: rank of this process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._shard, self._table = _unfinished(folder, rank)
        self._file = open_alone(self._shard)
        self._images: list[tuple[int, int, int, int]] = []
        self._written = 0

    def add(
        self,
        image_id: int,
        boxes_orig: NDArray[np.floating],
        objectness: NDArray[np.floating],
        levels: NDArray[np.integer],
    ) -> None:
        """Write the P proposals of one image; P may be 0.

        Args:
            image_id: COCO image id.
            boxes_orig: ``(P, 4)`` xyxy, pixels of the image file; stored as float32.
            objectness: ``(P,)`` logits, descending; stored as float32.
            levels: ``(P,)`` pyramid levels in [0, 255].

        Raises:
            ValueError: the shapes do not match, a number is not finite, or the objectness is not descending.
        """
        boxes = np.asarray(boxes_orig, dtype=np.float32).reshape(-1, 4)
        logits = np.asarray(objectness, dtype=np.float32)
        if not logits.shape == np.shape(levels) == (len(boxes),):
            raise ValueError(
                f"image {image_id}: there are {len(boxes)} boxes, but objectness has shape {logits.shape} and levels "
                f"has shape {np.shape(levels)}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(logits).all() and (np.diff(logits) <= 0).all()):
            raise ValueError(f"image {image_id}: proposals must be finite and sorted by descending objectness")
        proposals = np.empty(len(boxes), PROPOSAL)
        proposals["boxes_orig"], proposals["objectness"], proposals["levels"] = boxes, logits, levels
        with writing(self._shard):
            self._file.write(proposals.tobytes())
        self._images.append((image_id, self.rank, self._written, len(boxes)))
        self._written += len(boxes)

    def close(self) -> None:
        """Finish this process's shard. Other runs cannot write to the shard until :meth:`release`."""
        with writing(self._shard):
            self._file.flush()
        with writing(self._table):
            self._table.write_bytes(_npy(np.array(self._images, dtype=IMAGE)))

    def release(self) -> None:
        """Unlock the shard, so that another run can write to the store."""
        self._file.close()

    def discard(self) -> None:
        """Delete this process's unfinished shard, but not a complete store in the same folder."""
        with contextlib.suppress(OSError):  # closing writes the shard's last bytes, which fails on a full disk
            self._file.close()
        for path in (self._shard, self._table):
            path.unlink(missing_ok=True)


def complete_store(
    folder: Path, num_processes: int, header: ProposalHeader, image_ids: NDArray[np.int64]
) -> ProposalHeader:
    """Combine the closed shards of all processes into a complete store.

    Args:
        folder: folder of the store.
        num_processes: number of processes that wrote a shard.
        header: header of the store. This function fills in ``num_images``, ``num_proposals``, ``shards`` and ``token``.
        image_ids: int64, ids of the images of the split.

    Returns:
        The header that was written.

    Raises:
        InputError: an image of the split was not written, or was written twice. An earlier store stays unchanged.
    """
    parts = [_unfinished(folder, rank) for rank in range(num_processes)]
    # The table of a process is missing if the process wrote to the disk of another machine. The images of this
    # process are then reported as missing.
    images = np.concatenate([np.empty(0, IMAGE), *(np.load(table) for _, table in parts if table.exists())])
    images = images[np.argsort(images["image_id"], kind="stable")]
    if not np.array_equal(images["image_id"], np.sort(image_ids)):
        raise InputError(
            f"{folder}: the proposals of some images are missing or were written twice ({len(images)} images were "
            f"written, but split {header.split} has {len(image_ids)}); no store was made. Predict every image once "
            "(leave out trainer.limit_predict_batches)"
        )
    header = dataclasses.replace(
        header,
        num_images=len(images),
        num_proposals=int(images["count"].sum()),
        shards=tuple(shard.stat().st_size for shard, _ in parts),
        token=secrets.token_hex(6),
    )
    kept = {header.shard_path(folder, rank): shard for rank, (shard, _) in enumerate(parts)}
    for path, shard in kept.items():
        shard.replace(path)
    write_whole(header.table_path(folder), _npy(images))
    write_whole(folder / HEADER, header.to_json())
    for path in folder.iterdir():
        stored = path.is_file() and path.suffix in (".bin", ".npy", ".part", ".safetensors")  # version 1: .safetensors
        if stored and path not in {*kept, header.table_path(folder)}:
            path.unlink(missing_ok=True)
    return header


def _npy(array: NDArray[np.void]) -> bytes:
    """Return the bytes of an array in NumPy's file format.

    Saving directly to a file with NumPy would hide the cause of an error if the disk is full.
    """
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _unfinished(folder: Path, rank: int) -> tuple[Path, Path]:
    """Return the temporary paths of a process's shard and table of images, used until the store is complete."""
    return folder / f".rank-{rank:04}.bin", folder / f".rank-{rank:04}.npy"

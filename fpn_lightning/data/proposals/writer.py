"""Writing a proposal store: every process writes shards of its own, the header comes last.

The shards of one writing share a token in their names. They lie beside those of an earlier store, which stays what
readers see until the new header replaces the old in one step; then the old shards go. A writer that is killed leaves
shards that no header lists.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fpn_lightning.data.proposals.header import (
    FORMAT,
    HEADER,
    VERSION,
    ProposalHeader,
    Shard,
    ids_digest,
    read_shard_index,
)
from fpn_lightning.errors import InputError
from fpn_lightning.files import whole_file, write_whole


class ShardWriter:
    """Writes the images of one process.

    Args:
        folder: of the store.
        token: tells this writing from others; the same in all processes.
        rank: of this process.
        images_per_shard: images held in memory before they are written; 512 with 2,000 proposals are 22 MB.
    """

    def __init__(self, folder: Path, token: str, rank: int = 0, images_per_shard: int = 512) -> None:
        self.folder = folder
        self.token = token
        self.rank = rank
        self.images_per_shard = images_per_shard
        self._images: list[tuple[int, NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]] = []
        self._written = 0

    def add(
        self,
        image_id: int,
        boxes_orig: NDArray[np.floating],
        objectness: NDArray[np.floating],
        levels: NDArray[np.integer],
    ) -> None:
        """Take one image; it may have no proposals.

        Args:
            image_id: COCO image id.
            boxes_orig: ``(P, 4)`` xyxy, pixels of the image file; kept as float32.
            objectness: ``(P,)`` logits, descending; kept as float32.
            levels: ``(P,)`` in [0, 255].

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, or an order that is not best first.
        """
        boxes = np.asarray(boxes_orig, dtype=np.float32).reshape(-1, 4)
        logits = np.asarray(objectness, dtype=np.float32)
        if not logits.shape == np.shape(levels) == (len(boxes),):
            raise ValueError(
                f"image {image_id}: {len(boxes)} boxes, objectness {logits.shape}, levels {np.shape(levels)}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(logits).all() and (np.diff(logits) <= 0).all()):
            raise ValueError(f"image {image_id}: proposals have to be finite and best first")
        self._images.append((image_id, boxes, logits, np.asarray(levels, dtype=np.uint8)))
        if len(self._images) == self.images_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what is held, if anything."""
        if not self._images:
            return
        image_ids, boxes, objectness, levels = zip(*self._images, strict=True)
        arrays = {
            "boxes_orig": np.concatenate(boxes),
            "objectness": np.concatenate(objectness),
            "levels": np.concatenate(levels),
            "image_ids": np.array(image_ids, dtype=np.int64),
            "offsets": np.cumsum([0, *map(len, levels)], dtype=np.int64),
        }
        name = f"{self.token}-{self.rank:04}-{self._written:05}.safetensors"
        with whole_file(self.folder / name) as temporary:
            save_file(arrays, temporary, metadata={"format": FORMAT, "version": str(VERSION)})
        self._images = []
        self._written += 1

    def discard(self) -> None:
        """Delete what was written; the store of an earlier writing stays."""
        for path in self.folder.glob(f"{self.token}-{self.rank:04}-*.safetensors"):
            path.unlink(missing_ok=True)
        self._images = []


def complete_store(folder: Path, token: str, header: ProposalHeader, image_ids: NDArray[np.int64]) -> ProposalHeader:
    """Turn the shards of one writing into the store, once every process has written its own.

    Args:
        folder: of the store.
        token: that of the writers.
        header: what the store says about itself; its counts and shards are filled in here.
        image_ids: int64, the images of the split.

    Returns:
        The header as written.

    Raises:
        InputError: an image of the split was not written, or written twice; an earlier store stays as it was.
    """
    shards, ids = [], [np.empty(0, np.int64)]
    for path in sorted(folder.glob(f"{token}-*.safetensors")):
        own, offsets = read_shard_index(path)
        ids.append(own)
        shards.append(
            Shard(
                file=path.name,
                size=path.stat().st_size,
                num_images=len(own),
                num_proposals=int(offsets[-1]),
                ids_sha256=ids_digest(own),
            )
        )
    found = np.sort(np.concatenate(ids))
    if not np.array_equal(found, np.sort(image_ids)):
        raise InputError(
            f"{folder}: proposals of {len(found)} images were written, split {header.split} has {len(image_ids)} "
            "images; no store was made. Predict every image once (leave out trainer.limit_predict_batches)"
        )
    header = dataclasses.replace(
        header,
        num_images=len(found),
        num_proposals=sum(shard.num_proposals for shard in shards),
        shards=tuple(shards),
    )
    write_whole(folder / HEADER, header.to_json())
    kept = {shard.file for shard in shards}
    for path in [*folder.glob("*.safetensors"), *folder.glob(".*.part")]:
        if path.name not in kept:
            path.unlink(missing_ok=True)
    return header

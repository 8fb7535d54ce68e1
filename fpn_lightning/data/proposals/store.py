"""Read fixed proposals from disk by image id, to train Fast R-CNN on the proposals of an RPN (FPN §5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.proposals.header import AGAIN, HEADER, HOW, IMAGE, PROPOSAL, read_header
from fpn_lightning.errors import InputError


class StoredProposals(NamedTuple):
    """The P proposals of one image, sorted by descending objectness.

    Attributes:
        boxes_orig: float32 ``(P, 4)`` xyxy, pixels of the image file.
        objectness: float32 ``(P,)`` logits, descending.
        levels: uint8 ``(P,)`` pyramid level of each proposal.
    """

    boxes_orig: NDArray[np.float32]
    objectness: NDArray[np.float32]
    levels: NDArray[np.uint8]


class ProposalStore:
    """The fixed proposals of one split, opened for reading.

    Opening a store reads only its header and its table of images. The proposals of an image are read from disk when
    they are needed. In memory, 2,000 proposals for each of 118,000 images would take 5 GB.

    Args:
        folder: ``<run>/proposals/<split>``.

    Attributes:
        header: content of ``header.json``.
        image_ids: int64 ``(N,)``, ids of all images in the store, ascending.

    Raises:
        InputError: the folder is not a store, or the store is incomplete or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.header = read_header(self.folder)
        for shard, size in enumerate(self.header.shards):
            path = self.header.shard_path(self.folder, shard)
            actual = path.stat().st_size if path.is_file() else None
            if actual != size:
                problem = "is missing" if actual is None else f"has {actual} bytes, but {HEADER} says {size}"
                raise InputError(f"{path} {problem}; {AGAIN}")
        table = self.header.table_path(self.folder)
        try:
            self._images = np.load(table)
            total = len(self._images), int(self._images["count"].sum())
            fits = self._images.dtype == IMAGE and total == (self.header.num_images, self.header.num_proposals)
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise InputError(f"{table} cannot be read ({error}); {AGAIN}") from error
        if not fits:
            raise InputError(f"{table}: its numbers of images and proposals differ from those in {HEADER}; {AGAIN}")
        self.image_ids = self._images["image_id"].copy()

    def __len__(self) -> int:
        return len(self.image_ids)

    def check(self, split: str, fingerprint: str, image_ids: NDArray[np.int64]) -> None:
        """Check that the store belongs to a split and holds the proposals of all given images.

        Args:
            split: name of the split.
            fingerprint: sha256 of the split's annotation file.
            image_ids: int64, ids of the images whose proposals are needed.

        Raises:
            InputError: the store belongs to another split or annotation file, or lacks an image.
        """
        if self.header.split != split:
            raise InputError(
                f"{self.folder} holds the proposals of split {self.header.split}, not of {split}; "
                f"write the proposals of {split} with {HOW}"
            )
        self.check_fingerprint(fingerprint)
        missing = np.setdiff1d(image_ids, self.image_ids)
        if len(missing):
            raise InputError(
                f"{self.folder} has no proposals of {len(missing)} images of {split} (the first is image "
                f"{missing[0]}); {AGAIN}"
            )

    def check_fingerprint(self, fingerprint: str) -> None:
        """Raise InputError if the store was made from an annotation file with another sha256."""
        if self.header.fingerprint != fingerprint:
            raise InputError(
                f"{self.folder} was made from another annotation file than the given one. The store's file has sha256 "
                f"{self.header.fingerprint[:12]}... (split {self.header.split} of {self.header.data_name!r}), the "
                f"given file has sha256 {fingerprint[:12]}...; use the annotation file of the store, or {AGAIN}"
            )

    def read(self, image_id: int, limit: int | None = None) -> StoredProposals:
        """Read the proposals of one image, or only the ``limit`` proposals with the highest objectness.

        Raises:
            InputError: the store has no such image, or the shard of the image is damaged or was deleted.
        """
        place = int(np.searchsorted(self.image_ids, image_id))
        if place == len(self.image_ids) or self.image_ids[place] != image_id:
            raise InputError(f"{self.folder} holds no proposals of image {image_id}; {AGAIN}")
        _, shard, first, count = self._images[place].tolist()
        count = count if limit is None else min(count, limit)
        path = self.header.shard_path(self.folder, shard)
        try:
            proposals = np.fromfile(path, PROPOSAL, count, offset=first * PROPOSAL.itemsize)
        except OSError as error:
            raise InputError(
                f"{path} can no longer be read ({error}); if another run replaced the store, start this run again"
            ) from error
        # Copy each field, because PyTorch cannot make tensors from views into 21-byte records.
        found = StoredProposals(*(proposals[name].copy() for name in StoredProposals._fields))
        whole = len(proposals) == count and np.isfinite(found.boxes_orig).all()
        if not (whole and (np.diff(found.objectness) <= 0).all()):
            raise InputError(
                f"{path}: the proposals of image {image_id} are damaged (missing, not finite, or not sorted by "
                f"objectness); {AGAIN}"
            )
        return found

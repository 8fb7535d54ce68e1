"""Fixed proposals on disk, read by image id (Fast R-CNN trained on the proposals of an RPN; FPN §5.2).

Shards are safetensors files, mapped and read image by image. Few are mapped at a time, so that a process does not come
to hold the whole store: 118,000 images with 2,000 proposals each are 5 GB.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fpn_lightning.data.proposals.header import HEADER, HOW, ids_digest, read_header, read_shard_index
from fpn_lightning.errors import InputError

MAPPED_BYTES = 64 * 2**20  # of shards a process keeps open; every page of them may come to be resident


class StoredProposals(NamedTuple):
    """Proposals of one image, best first.

    Attributes:
        boxes_orig: float32 ``(P, 4)`` xyxy, pixels of the image file.
        objectness: float32 ``(P,)`` logits, descending.
        levels: uint8 ``(P,)`` the pyramid level each came from.
    """

    boxes_orig: NDArray[np.float32]
    objectness: NDArray[np.float32]
    levels: NDArray[np.uint8]


class ProposalStore:
    """A complete store of the proposals of one split.

    Opening reads the image ids of every shard and checks them against the header. A copy sent to another process
    opens the shards it needs itself.

    Args:
        folder: ``<run>/proposals/<split>``.

    Attributes:
        header: what the store says about itself.
        image_ids: int64 ``(N,)`` ascending.

    Raises:
        InputError: no store, one that is not complete or not whole, or of another version; names the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.header = read_header(self.folder)
        ids, places = [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)]
        for number, shard in enumerate(self.header.shards):
            path = self.folder / shard.file
            # Size and ids first: a file that was swapped or cut gets one message, whatever is in it.
            size = path.stat().st_size if path.is_file() else None
            if size not in (None, shard.size):
                raise InputError(
                    f"{path} has {size} bytes, {HEADER} says {shard.size}: the shard is not whole, or of another "
                    f"store; write the store again with {HOW}"
                )
            image_ids, offsets = read_shard_index(path)
            found = (len(image_ids), int(offsets[-1]), ids_digest(image_ids))
            if found != (shard.num_images, shard.num_proposals, shard.ids_sha256):
                raise InputError(
                    f"{path} holds other images than {HEADER} says: files of two stores are mixed; "
                    f"write the store again with {HOW}"
                )
            ids.append(image_ids)
            places.append(np.stack((np.full(len(image_ids), number), offsets[:-1], offsets[1:]), axis=1))
        all_ids = np.concatenate(ids)
        order = np.argsort(all_ids, kind="stable")
        self.image_ids = all_ids[order]
        self._places = np.concatenate(places)[order]  # shard, first and last row of each image
        repeated = self.image_ids[1:][np.diff(self.image_ids) == 0]
        if len(repeated) or len(all_ids) != self.header.num_images:
            fault = f"image {repeated[0]} twice" if len(repeated) else f"{len(all_ids)} images"
            raise InputError(
                f"{self.folder / HEADER}: the shards hold {fault}, {self.header.num_images} are stated; "
                f"write the store again with {HOW}"
            )
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # an open file belongs to its process

    def check(self, split: str, fingerprint: str, image_ids: NDArray[np.int64]) -> None:
        """Refuse a store that is not of these images.

        Args:
            split: name of the split they belong to.
            fingerprint: sha256 of its annotation file.
            image_ids: int64, the images that proposals are wanted for.

        Raises:
            InputError: another split, another data set, or images that are missing.
        """
        if self.header.split != split:
            raise InputError(
                f"{self.folder} holds the proposals of split {self.header.split}, not of {split}; "
                f"write those of {split} with {HOW}"
            )
        self.check_fingerprint(fingerprint)
        missing = np.setdiff1d(image_ids, self.image_ids)
        if len(missing):
            raise InputError(
                f"{self.folder} lacks the proposals of {len(missing)} images of {split}, the first of them image "
                f"{missing[0]}; write the store again with {HOW}"
            )

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse a store made from an annotation file with another sha256 (InputError)."""
        if self.header.fingerprint != fingerprint:
            raise InputError(
                f"{self.folder} was made from another annotation file (split {self.header.split} of "
                f"{self.header.data_name!r}, sha256 {self.header.fingerprint[:12]}..., the one at hand has "
                f"{fingerprint[:12]}...): give the data set it belongs to, or write the store again with {HOW}"
            )

    def read(self, image_id: int, limit: int | None = None) -> StoredProposals:
        """Copy the proposals of one image, at most the ``limit`` best.

        Raises:
            InputError: the image is not in the store, or its shard can no longer be read or is damaged.
        """
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            raise InputError(f"{self.folder} holds no proposals of image {image_id}")
        number, first, last = self._places[row].tolist()
        last = last if limit is None else min(last, first + limit)
        if last == first:  # safetensors refuses an empty slice at the end of an array
            return StoredProposals(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
        path = self.folder / self.header.shards[number].file
        try:
            file = self._shard(number, path)
            found = StoredProposals(*(file.get_slice(name)[first:last] for name in StoredProposals._fields))
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} can no longer be read ({error}); was the store written again meanwhile? Start again"
            ) from error
        if not (np.isfinite(found.boxes_orig).all() and (np.diff(found.objectness) <= 0).all()):
            raise InputError(
                f"{path}: the proposals of image {image_id} are not finite or not best first; "
                f"write the store again with {HOW}"
            )
        return found

    def _shard(self, number: int, path: Path) -> Any:
        """The mapped shard; those not used for longest are closed."""
        if number not in self._open:
            self._open[number] = safe_open(path, "np")
            sizes = {key: self.header.shards[key].size for key in self._open}
            while len(self._open) > 1 and sum(sizes[key] for key in self._open) > MAPPED_BYTES:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

"""The file layout of a proposal store.

Its header records the data split of the proposals and the checkpoint that made them.

A store is the folder ``<run>/proposals/<split>/`` with three kinds of files: ``header.json``, a table of the images
(``<token>.npy``) and one shard of proposals for each process that wrote (``<token>-<rank>.bin``). The header is
written last and names the token, so a folder without a header is not a store.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError

from fpn_lightning.errors import InputError, first_error

FORMAT = "fpn_lightning proposals"
VERSION = 2
HEADER = "header.json"
# One proposal in a shard; the proposals of an image lie one after the other, best first.
PROPOSAL = np.dtype([("boxes_orig", "<f4", 4), ("objectness", "<f4"), ("levels", "u1")])
# One image in the table: its id, the shard with its proposals, the index of its first proposal in the shard, and its
# number of proposals.
IMAGE = np.dtype([("image_id", "<i8"), ("shard", "<i8"), ("first", "<i8"), ("count", "<i8")])
HOW = "python train.py predict --config RUN/config.yaml --ckpt_path last --data.predict_split SPLIT"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class ProposalHeader:
    """What a store says about itself.

    Attributes:
        data_name: name of the data set.
        split: name of the split.
        fingerprint: sha256 of the split's annotation file.
        checkpoint_sha256: sha256 of the checkpoint that made the proposals.
        config_sha256: sha256 of the configuration of that run, without seed, paths and machine.
        post_nms_topk: largest number of proposals of an image.
        nms_thresh: IoU threshold of non-maximum suppression.
        num_images: number of images of the split.
        num_proposals: number of proposals of all images.
        shards: size in bytes of each shard, in the order of the processes.
        token: first part of the names of this store's files.
        format: tells a store's header from other JSON.
        version: version of the layout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    data_name: str
    split: str
    fingerprint: Digest
    checkpoint_sha256: Digest
    config_sha256: Digest
    post_nms_topk: NonNegativeInt
    nms_thresh: NonNegativeFloat
    num_images: NonNegativeInt = 0
    num_proposals: NonNegativeInt = 0
    shards: tuple[NonNegativeInt, ...] = ()
    token: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = ""
    format: Literal["fpn_lightning proposals"] = "fpn_lightning proposals"
    version: Literal[2] = 2

    def to_json(self) -> str:
        """Indented JSON that begins with the format and the version."""
        return json.dumps({"format": FORMAT, "version": VERSION} | asdict(self), indent=1) + "\n"

    def table_path(self, folder: Path) -> Path:
        """Path of the table of images in the store's folder."""
        return folder / f"{self.token}.npy"

    def shard_path(self, folder: Path, shard: int) -> Path:
        """Path of a shard in the store's folder."""
        return folder / f"{self.token}-{shard:04}.bin"


def read_header(folder: Path) -> ProposalHeader:
    """Read the header of a store.

    Raises:
        InputError: it is missing, or this version cannot read it.
    """
    path = folder / HEADER
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        inside = sorted(other.parent.name for other in folder.glob(f"*/{HEADER}"))
        hint = f"; it holds stores of {', '.join(inside)}, name one of them" if inside else ""
        raise InputError(
            f"{folder} is not a complete proposal store: {HEADER} is missing{hint}. Stores are written by {HOW}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); write the store again with {HOW}") from error
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not the header of a proposal store; stores are written by {HOW}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} is of version {content.get('version')!r}, this program reads {VERSION}: "
            f"write the store again with {HOW}"
        )
    try:
        return TypeAdapter(ProposalHeader).validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error)}; write the store again with {HOW}") from error

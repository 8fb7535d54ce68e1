"""The file layout of a proposal store.

A store is the folder ``<run>/proposals/<split>/`` with three kinds of files: ``header.json``, a table of the images
(``<token>.npy``) and one shard of proposals for each process that wrote proposals (``<token>-<rank>.bin``). The header
records the split and the checkpoint of the proposals. The header is written last, so a folder without a header is not
a complete store.
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
# One proposal in a shard. The proposals of an image are consecutive and sorted by descending objectness.
PROPOSAL = np.dtype([("boxes_orig", "<f4", 4), ("objectness", "<f4"), ("levels", "u1")])
# One image in the table: its id, the shard with its proposals, the index of its first proposal in the shard, and its
# number of proposals.
IMAGE = np.dtype([("image_id", "<i8"), ("shard", "<i8"), ("first", "<i8"), ("count", "<i8")])
HOW = "python train.py predict --config RUN/config.yaml --ckpt_path last --data.predict_split SPLIT"
AGAIN = f"write the store again with {HOW}"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class ProposalHeader:
    """The content of ``header.json``.

    Attributes:
        format: constant text that identifies the file as the header of a proposal store.
        version: version of the file layout.
        data_name: name of the data set.
        split: name of the split.
        fingerprint: sha256 of the split's annotation file.
        checkpoint_sha256: sha256 of the checkpoint that made the proposals.
        config_sha256: sha256 of the configuration that made the proposals; ignores seed, paths and hardware.
        post_nms_topk: largest number of proposals per image.
        nms_thresh: IoU threshold of non-maximum suppression.
        num_images: number of images of the split.
        num_proposals: total number of proposals of all images.
        shards: size of each shard in bytes, in the order of the ranks.
        token: random hexadecimal prefix of the names of the table and the shards.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    format: Literal["fpn_lightning proposals"] = "fpn_lightning proposals"
    version: Literal[2] = 2
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

    def to_json(self) -> str:
        """Return the text of ``header.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def table_path(self, folder: Path) -> Path:
        """Path of the table of images in the store's folder."""
        return folder / f"{self.token}.npy"

    def shard_path(self, folder: Path, shard: int) -> Path:
        """Path of a shard in the store's folder."""
        return folder / f"{self.token}-{shard:04}.bin"


def read_header(folder: Path) -> ProposalHeader:
    """Read the header of the store in ``folder``.

    Raises:
        InputError: the header is missing, invalid or of another version.
    """
    path = folder / HEADER
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        inside = sorted(other.parent.name for other in folder.glob(f"*/{HEADER}"))
        hint = f"; the folder contains the stores {', '.join(inside)}: give the path of one store" if inside else ""
        raise InputError(
            f"{folder} is not a complete proposal store: {HEADER} is missing{hint}. Stores are written by {HOW}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {AGAIN}") from error
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not the header of a proposal store; stores are written by {HOW}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} has version {content.get('version')!r}, but this program reads version {VERSION}; {AGAIN}"
        )
    try:
        return TypeAdapter(ProposalHeader).validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error)}; {AGAIN}") from error

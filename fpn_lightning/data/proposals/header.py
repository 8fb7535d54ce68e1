"""The header of a proposal store: what its proposals are of, what made them, and which shards hold them.

A store is the folder ``<run>/proposals/<split>/``: ``header.json`` and the shards it lists. The header is written
last, so a folder without one is no store, whatever else lies in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from fpn_lightning.errors import InputError

FORMAT = "fpn_lightning proposals"
VERSION = 1
HEADER = "header.json"
# name -> (safetensors' name of the dtype, shape after the first axis)
LAYOUT: dict[str, tuple[str, tuple[int, ...]]] = {
    "boxes_orig": ("F32", (4,)),
    "objectness": ("F32", ()),
    "levels": ("U8", ()),
    "image_ids": ("I64", ()),
    "offsets": ("I64", ()),
}
HOW = "python train.py predict --config RUN/config.yaml --ckpt_path last --data.predict_split SPLIT"
_STRICT = ConfigDict(extra="forbid", strict=True)
# A plain name: what a header lists lies in the header's own folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a store.

    Attributes:
        file: its name in the store's folder.
        size: bytes.
        num_images: images in it.
        num_proposals: proposals in it.
        ids_sha256: digest of its image ids, see :func:`ids_digest`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    file: FileName
    size: NonNegativeInt
    num_images: NonNegativeInt
    num_proposals: NonNegativeInt
    ids_sha256: Digest


@dataclass(frozen=True, kw_only=True)
class ProposalHeader:
    """What a store says about itself.

    Attributes:
        data_name: the data set.
        split: which of its splits.
        fingerprint: sha256 of the split's annotation file.
        checkpoint_sha256: digest of the checkpoint whose model proposed.
        config_sha256: digest of the configuration it proposed under, without seed, paths and machine.
        post_nms_topk: most proposals an image may have.
        nms_thresh: IoU above which the lower-scored of two proposals went.
        num_images: images of the split, each of which is in one shard.
        num_proposals: proposals of all images.
        shards: the files.
        format: tells a store's header from other JSON.
        version: of this layout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    data_name: str
    split: str
    fingerprint: Digest
    checkpoint_sha256: Digest
    config_sha256: Digest
    post_nms_topk: NonNegativeInt
    nms_thresh: NonNegativeFloat
    num_images: NonNegativeInt
    num_proposals: NonNegativeInt
    shards: tuple[Shard, ...]
    format: Literal["fpn_lightning proposals"] = "fpn_lightning proposals"
    version: Literal[1] = 1

    def to_json(self) -> str:
        """Indented JSON; the kind of file and the version first."""
        content = asdict(self)
        return json.dumps({"format": FORMAT, "version": VERSION} | content, indent=1) + "\n"


def read_header(folder: Path) -> ProposalHeader:
    """Read the header of a store.

    Raises:
        InputError: there is none, or it is not one that this version can read.
    """
    path = folder / HEADER
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        inside = sorted(other.parent.name for other in folder.glob(f"*/{HEADER}"))
        hint = f"; it holds stores of {', '.join(inside)}, name one of them" if inside else ""
        raise InputError(
            f"{folder} is no complete proposal store: {HEADER} is missing{hint}. Stores are written by {HOW}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); write the store again with {HOW}") from error
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no header of a proposal store; stores are written by {HOW}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} is of version {content.get('version')!r}, this program reads {VERSION}: "
            f"write the store again with {HOW}"
        )
    try:
        return TypeAdapter(ProposalHeader).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {key}: {first['msg']}; write the store again with {HOW}") from error


def ids_digest(image_ids: NDArray[np.int64]) -> str:
    """Sha256 of the ids as little-endian int64, in their order."""
    return hashlib.sha256(np.ascontiguousarray(image_ids, dtype="<i8").tobytes()).hexdigest()


def read_shard_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read which images a shard holds, and where, without its boxes.

    Returns:
        ``(image_ids, offsets)``: int64 ``(I,)`` in the order of the shard, int64 ``(I + 1,)``; proposals of its image
        i are rows ``offsets[i]:offsets[i + 1]``.

    Raises:
        InputError: missing, truncated, or no shard of a store.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(VERSION)):
                raise InputError(f"{path} is no shard of a proposal store; stores are written by {HOW}")
            shapes = {name: _shape(file.get_slice(name), dtype) for name, (dtype, _) in LAYOUT.items()}
            image_ids, offsets = file.get_tensor("image_ids"), file.get_tensor("offsets")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is a shard of proposals that is missing or not whole ({error}); write the store again with {HOW}"
        ) from error
    counts = {"image_ids": len(image_ids), "offsets": len(image_ids) + 1}
    rows = int(offsets[-1]) if offsets.ndim == 1 and len(offsets) else -1
    right = all(shapes[name] == (counts.get(name, rows), *shape) for name, (_, shape) in LAYOUT.items())
    if not right or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise InputError(f"{path}: the arrays of this shard do not fit together; write the store again with {HOW}")
    return image_ids, offsets


def _shape(part: Any, dtype: str) -> tuple[int, ...]:
    return tuple(part.get_shape()) if part.get_dtype() == dtype else ()

"""Build a split: ``python -m fpn_lightning.data.subset --root data/coco --ids IDS.txt --split NAME``.

A list of image ids (``configs/splits/``) defines the split, so that everybody who has COCO gets the same split. The
annotations of these images are copied unchanged. The image files are hard links, or copies if the file system does not
support links.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpn_lightning.data.coco.annotations import read_annotations
from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import whole_file, write_whole

SOURCES = ("train2017", "val2017")


@dataclass(frozen=True)
class Part:
    """The images of a new split that come from one source split.

    Attributes:
        index: annotations of the source split.
        ids: ids of the images to take.
        images: for each ``file_name`` in the annotations, the path of the image file.
    """

    index: COCOIndex
    ids: set[int]
    images: dict[str, Path]


def build_subset(
    root: Path,
    ids: Path,
    split: str,
    out: Path | None = None,
    sources: Sequence[str] = SOURCES,
    box_areas: bool = False,
    overwrite: bool = False,
) -> Path:
    """Build a split from a list of image ids.

    Args:
        root: folder of a data set in COCO's layout.
        ids: file with an image id in each line; ``#`` starts a comment.
        split: name of the new split.
        out: folder of the data set to which the split is added; by default ``root``.
        sources: splits of ``root`` that are searched for the images, in this order.
        box_areas: set each object's ``area`` to the area of its box instead of its mask. An object then counts as
            small, medium or large by the area of its box.
        overwrite: replace an existing split of the same name that has other images or annotations.

    Returns:
        Path of the new annotation file. The annotation file is written last, completely or not at all.

    Raises:
        InputError: ids or image files are missing (the message lists them), a file is invalid, or another split with
            this name exists.
    """
    out = root if out is None else out
    if split in sources and out.resolve() == root.resolve():
        raise InputError(f"--split {split} is also a source of images (--from); choose another name for the new split")
    parts = _parts(root, ids, sources)
    document = _document(parts, split, box_areas)
    path = out / "annotations" / f"instances_{split}.json"
    content = json.dumps(document, separators=(",", ":")).encode()
    if path.exists() and not overwrite and path.read_bytes() != content:
        raise InputError(f"{path} exists with other content. Give another --split, or --overwrite to replace the file")
    read_annotations(path, content)  # raises InputError if two source splits use the same annotation id
    for part in parts:
        for name, image in part.images.items():
            _place(image, out / split / name)
    write_whole(path, content)
    return path


def read_ids(path: Path) -> list[int]:
    """Read a list of image ids. Raise InputError for a line that is not an id or repeats an earlier id."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the list of image ids ({error})") from error
    ids: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit()) or int(text) in ids:
            raise InputError(f"{path}: line {number} is {text!r}; write one image id per line, and each id only once")
        ids[int(text)] = number
    if not ids:
        raise InputError(f"{path}: the file contains no image id; write one image id per line")
    return list(ids)


def _parts(root: Path, ids: Path, sources: Sequence[str]) -> list[Part]:
    """Find the images in the source splits. An image that is in several source splits is taken from the first one."""
    left, parts = set(read_ids(ids)), []
    for source in sources:
        annotations = root / "annotations" / f"instances_{source}.json"
        if not annotations.is_file():
            raise InputError(
                f"{annotations} is missing. Download COCO with `python -m fpn_lightning.data.download --root {root}`, "
                "or name the splits that have the images with --from."
            )
        index = COCOIndex.open(annotations)
        found = left & set(index.image_ids.tolist())
        left -= found
        if found:
            names = [index.file_name(index.row(image_id)) for image_id in sorted(found)]
            parts.append(Part(index, found, {name: root / source / name for name in names}))
    missing = [image for part in parts for image in part.images.values() if not image.is_file()]
    faults = [f"{len(left)} ids are in none of the splits {', '.join(sources)}: {_listed(sorted(left))}"] * bool(left)
    faults += [f"{len(missing)} image files are missing: {_listed(missing)}"] * bool(missing)
    if faults:
        raise InputError(
            f"{ids}: {'; '.join(faults)}. Nothing was written. Add these images to {root}, or remove their ids from "
            "the list."
        )
    return parts


def _listed(things: Sequence[object]) -> str:
    return ", ".join(map(str, things[:5])) + (f" and {len(things) - 5} more" if len(things) > 5 else "")


def _document(parts: Sequence[Part], split: str, box_areas: bool) -> dict[str, Any]:
    first = parts[0].index
    kept: dict[str, Any] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for part in parts:
        document = json.loads(part.index.annotation_file.read_bytes())
        kept = kept or {key: document[key] for key in ("licenses", "categories") if key in document}
        if document.get("categories") != kept.get("categories"):
            raise InputError(
                f"{part.index.annotation_file}: its categories are not those of {first.annotation_file}; take the "
                "images from splits with the same 'categories'"
            )
        images += (image for image in document["images"] if image["id"] in part.ids)
        annotations += (item for item in document.get("annotations", []) if item["image_id"] in part.ids)
    _check_names(image["file_name"] for image in images)
    if box_areas:
        annotations = [item | {"area": round(item["bbox"][2] * item["bbox"][3], 4)} for item in annotations]
    description = f"{split} of {first.description}" + "; areas are box areas" * box_areas
    order = {"images": sorted(images, key=lambda image: image["id"]), "annotations": annotations}
    return {"info": {"description": description}} | kept | order


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(
                f"two images of the list have the file name {name}, but a split can contain this name only once; "
                "remove the id of one of the two images from the list (--ids)"
            )
        seen.add(name)


def _place(image: Path, target: Path) -> None:
    """Link or copy an image file to ``target``. Keep an existing ``target`` with the same content."""
    if target.is_file() and filecmp.cmp(image, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image.resolve(), target)  # resolve a symbolic link, because its target may be a relative path
    except OSError:  # os.link fails if `target` is on another file system, or exists with other content
        with whole_file(target) as temporary:
            shutil.copyfile(image, temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 2 if the split cannot be built."""
    parser = argparse.ArgumentParser(
        "python -m fpn_lightning.data.subset", description="Build a split from a list of image ids."
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of a data set in COCO's layout")
    add("--ids", type=Path, required=True, help="file with an image id in each line")
    add("--split", required=True, help="name of the new split")
    add("--out", type=Path, help="folder of the data set to add the split to (default: --root)")
    add(
        "--from",
        dest="sources",
        nargs="+",
        default=SOURCES,
        metavar="SPLIT",
        help="splits of --root that are searched for the images (default: train2017 val2017)",
    )
    add("--box-areas", action="store_true", help="set each object's 'area' to the area of its box")
    add("--overwrite", action="store_true", help="replace an existing split of the same name")
    try:
        path = build_subset(**vars(parser.parse_args(arguments)))
    except (InputError, OSError) as error:
        return complain(error)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command line: ``python -m fpn_lightning.data.synthetic --root data/synthetic``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fpn_lightning.data.synthetic import generate
from fpn_lightning.errors import InputError, complain
from fpn_lightning.text import replace_unprintable


def _split(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COUNT, for instance tune=500")
    return name, int(count)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fpn_lightning.data.synthetic", description="Generate images in COCO's format."
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--train", type=int, default=2000, metavar="COUNT", help="images in train (default: 2000)")
    parser.add_argument("--val", type=int, default=250, metavar="COUNT", help="images in val (default: 250)")
    parser.add_argument(
        "--split", type=_split, action="append", default=[], metavar="NAME=COUNT", help="one more split"
    )
    parser.add_argument("--size", type=int, default=160, help="side of the images, pixels (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the data set (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core); does not change the files")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set with other settings in --root")
    given = parser.parse_args(arguments)
    replace_unprintable()
    splits = {"train": given.train, "val": given.val, **dict(given.split)}
    try:
        generate(given.root, splits, given.size, given.seed, given.workers, given.overwrite, progress=True)
    except InputError as error:
        sys.exit(complain(error))


if __name__ == "__main__":
    main()

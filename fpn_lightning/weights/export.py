"""Writing a trained Faster R-CNN for torchvision or detectron2.

``python -m fpn_lightning.weights.export RUN/checkpoints/last.ckpt OUT --to torchvision`` (or ``detectron2``).
:mod:`fpn_lightning.weights.torchvision` and :mod:`fpn_lightning.weights.detectron2` say how to load the file there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import check_free
from fpn_lightning.text import replace_unprintable, show
from fpn_lightning.weights import detectron2, torchvision
from fpn_lightning.weights.checkpoint import detector_state, read_checkpoint

PROJECTS = {"torchvision": torchvision.export, "detectron2": detectron2.export}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for unusable input)."""
    parser = argparse.ArgumentParser(prog="python -m fpn_lightning.weights.export", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a run, RUN/checkpoints/last.ckpt")
    parser.add_argument("output", metavar="OUT", type=Path, help="the file to write (.pth or .pkl)")
    parser.add_argument("--to", required=True, choices=PROJECTS, help="the project that is to read it")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    arguments = parser.parse_args(args)
    replace_unprintable()
    try:
        check_free(arguments.output, arguments.overwrite)
        checkpoint = read_checkpoint(arguments.checkpoint, "CHECKPOINT")
        ids = list(checkpoint.get("categories", {}).get("ids", ()))
        if not ids:
            raise InputError(f"{arguments.checkpoint} has no categories. Give a checkpoint that fit wrote.")
        PROJECTS[arguments.to](detector_state(checkpoint), ids, arguments.checkpoint, arguments.output)
    except InputError as error:
        return complain(error)
    show(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

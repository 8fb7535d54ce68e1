"""For each row of a table, copy a picture of predictions from the last validation of the row's run to the reports.

python -m fpn_lightning.drawing --preset mini --table table1
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fpn_lightning.drawing.callback import FOLDER
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import write_whole
from fpn_lightning.runs.directory import is_finished
from fpn_lightning.text import replace_unprintable, show


def _find_picture(run: Path, image_id: int | None) -> Path:
    """Find the picture of ``image_id`` (None: the lowest id) among the latest pictures of ``fit`` and ``validate``."""
    drawn = [*run.glob(f"{FOLDER}/step*/*.png"), *run.glob(f"validate/{FOLDER}/step*/*.png")]
    last = max((_step(path) for path in drawn), default=0)
    wanted = [path for path in drawn if _step(path) == last and image_id in (None, int(path.stem))]
    if not wanted:
        config = shlex.quote(str(run / "config.yaml"))
        raise InputError(
            f"{run} has no picture{'' if image_id is None else f' of image {image_id}'} from its last validation. To "
            f"draw pictures: python train.py validate --config {config} --ckpt_path last --pictures.num_images 10"
        )
    return min(wanted, key=lambda path: int(path.stem))


def _step(picture: Path) -> int:
    return int(picture.parent.name.removeprefix("step"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments ``argv`` (default: the arguments of the process).

    One picture is copied for each row of the table. If the runs of these rows were validated on the same images, all
    pictures show the same image.

    Returns:
        Exit status: 0, or 2 after a message on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m fpn_lightning.drawing", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)")
    parser.add_argument("--preset", required=True, help="preset of the runs")
    parser.add_argument("--table", required=True, help="table of the runs")
    parser.add_argument("--row", default="*", help="row to copy a picture of (default: every row with a finished run)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs (default: %(default)s)")
    parser.add_argument("--image-id", type=int, metavar="ID", help="id of the image to show (default: lowest id)")
    parser.add_argument("--output", type=Path, help="folder to copy to (default: reports/<preset>/pictures)")
    given = parser.parse_args(argv)
    folder, pattern = given.runs / given.preset / given.table, f"{given.row}/seed{given.seed}/metrics.json"
    replace_unprintable()
    output = given.output or Path("reports") / given.preset / "pictures"
    try:
        finished = sorted(record.parent for record in folder.glob(pattern) if is_finished(record.parent))
        if not finished:
            raise InputError(
                f"{folder} contains no finished run with seed {given.seed} (searched for {pattern}); finish a run with "
                "this seed, or change --preset, --table, --row or --seed"
            )
        # Find all pictures before copying the first picture: if a picture is missing, nothing is copied.
        for name, picture in [(run.parent.name, _find_picture(run, given.image_id)) for run in finished]:
            path = output / f"{given.table}_{name}.png".replace("/", "_")
            write_whole(path, picture.read_bytes())
            show(f"written: {path}")
    except InputError as error:
        return complain(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())

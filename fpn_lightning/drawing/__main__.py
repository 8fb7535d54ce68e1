"""One picture a row for the reports: ``python -m fpn_lightning.drawing --preset mini --table table1``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fpn_lightning.drawing.finished_runs import FinishedRun, find_finished, varied_images
from fpn_lightning.drawing.model import draw_example, evaluating
from fpn_lightning.drawing.sheet import png
from fpn_lightning.errors import InputError
from fpn_lightning.files import write_whole

MOST_BYTES = 60_000
"""Pictures are committed: one that takes more is drawn smaller, as far as anything can be seen."""
LONGEST_SIDES = (960, 640, 480, 320)


def draw_table(
    runs: Path,
    preset: str,
    table: str,
    seed: int,
    output: Path,
    count: int = 1,
    image_ids: Sequence[int] = (),
    data_root: str | None = None,
    top_k: int = 30,
    row: str | None = None,
) -> list[Path]:
    """Draw the same validation images with the model of every finished row of a table.

    Args:
        runs: folder of all runs.
        preset: of the runs.
        table: whose rows are drawn.
        seed: of the runs.
        output: folder that gets ``<table>_<row>.png`` for the first image, ``<table>_<row>_<image id>.png`` for others.
        count: how many images, where ``image_ids`` does not say which.
        image_ids: of the validation split; by default the first ones with small, medium and large objects.
        data_root: where the data set lies now, if not where the runs had it.
        top_k: boxes drawn in an image.
        row: the only one to draw.

    Returns:
        The paths written.

    Raises:
        InputError: no row is finished, a run has lost its checkpoint, or the split has no such image.
    """
    chosen, written = list(image_ids), []
    # All are opened before the first is drawn: what is missing is said at once.
    for run in [FinishedRun(folder, data_root) for folder in find_finished(runs, preset, table, seed, row)]:
        stage, dataset, collate = run.load()
        chosen = chosen or varied_images(dataset, stage.detector.scale.area_thresholds, count)
        for number, image_id in enumerate(chosen):
            title, name = f"{table}/{run.row}, step {run.step}", f"{table}_{run.row}"
            place = run.place(dataset, image_id)
            with evaluating(stage):
                for longest in LONGEST_SIDES:
                    content = png(draw_example(stage, dataset, collate, place, stage.device, title, top_k, longest))
                    if len(content) <= MOST_BYTES:
                        break
            path = output / f"{name if number == 0 else f'{name}_{image_id}'}.png".replace("/", "_")
            write_whole(path, content)
            written.append(path)
    return written


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fpn_lightning.drawing", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)")
    parser.add_argument("--preset", required=True, help="of the runs")
    parser.add_argument("--table", required=True, help="its finished rows are drawn")
    parser.add_argument("--row", help="the only row to draw (default: all finished)")
    parser.add_argument("--seed", type=int, default=0, help="of the runs (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1, metavar="COUNT", help="pictures a row (default: %(default)s)")
    parser.add_argument(
        "--image-id",
        type=int,
        nargs="+",
        default=(),
        metavar="ID",
        help="which validation images (default: the first ones with small, medium and large objects)",
    )
    parser.add_argument("--data-root", help="where the data set lies, if not where the runs had it")
    parser.add_argument("--top-k", type=int, default=30, help="boxes drawn in an image (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the pictures (default: reports/<preset>/pictures)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; those of the process when ``None``.

    Returns:
        Exit status: 0, or 1 after a message on standard error.
    """
    given = _parser().parse_args(argv)
    output = given.output or Path("reports") / given.preset / "pictures"
    try:
        for name in ("images", "top_k"):
            if getattr(given, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(given, name)}; it has to be at least 1")
        written = draw_table(
            given.runs,
            given.preset,
            given.table,
            given.seed,
            output,
            given.images,
            given.image_id,
            given.data_root,
            given.top_k,
            given.row,
        )
        for path in written:
            print(f"written: {path}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

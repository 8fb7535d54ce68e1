"""Copies the records of finished runs, and writes pages that show our numbers beside the paper's.

Run it with ``python -m fpn_lightning.reporting``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fpn_lightning.errors import InputError, complain
from fpn_lightning.paper import Table, all_tables
from fpn_lightning.reporting import tuning
from fpn_lightning.reporting.collection import Kept, collect, load_all, local_runs, presets, wandb_runs
from fpn_lightning.reporting.mixing import set_apart
from fpn_lightning.reporting.page import summaries, write
from fpn_lightning.reporting.terminal import show
from fpn_lightning.text import plain, replace_unprintable


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fpn_lightning.reporting", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)")
    parser.add_argument(
        "--reports",
        type=Path,
        default=Path("reports"),
        help="folder for the copied records and the pages; the files tables/*.yaml in this folder define tables of "
        "your own (default: %(default)s)",
    )
    parser.add_argument(
        "--preset", nargs="+", metavar="NAME", help="presets to write pages for (default: all that have records)"
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        metavar="NAME",
        default=[],
        help="write the pages of these tables even if none of their rows has been run; a table with records always "
        "gets a page",
    )
    parser.add_argument(
        "--source",
        choices=("local", "wandb"),
        default="local",
        help="local: the runs are in the folder --runs; wandb: they are in the Weights & Biases project "
        "--wandb-project (default: %(default)s)",
    )
    parser.add_argument(
        "--wandb-project", metavar="ENTITY/PROJECT", help="project that contains the runs, for --source wandb"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace copied records even if the data or the configuration of the new runs differs; with --preset, "
        "replace only the records of these presets",
    )
    return parser


def _gather(arguments: argparse.Namespace, records_root: Path, console: Console) -> Kept:
    """Copy the records of finished runs into ``records_root`` and print the names of unfinished runs."""

    def replace(preset: str) -> bool:
        return arguments.replace and (not arguments.preset or preset in arguments.preset)

    online, project = arguments.source == "wandb", arguments.wandb_project
    if online and not project:
        raise InputError("--source wandb needs --wandb-project ENTITY/PROJECT")
    kept = collect(wandb_runs(project) if online else local_runs(arguments.runs), records_root, replace)
    copied, others = len(kept.written), len(kept.left_alone) + len(kept.not_added)
    where = f"{copied} records were copied to {records_root}"
    where += f", {others} were not copied (see below)" if others else ""
    console.print(Text(f"{copied + others} finished runs in {project if online else arguments.runs}; {where}"))
    for name in kept.unfinished:
        console.print(Text(f"unfinished or replaced run, not copied: {plain(name)}", style="yellow"))
    return kept


def _render(preset: str, tables: Mapping[str, Table], arguments: argparse.Namespace, console: Console) -> None:
    """Write the pages of a preset and print its tables."""
    records_root, folder = arguments.reports / "records", arguments.reports / preset
    records = load_all(records_root, preset)
    found = summaries(preset, tables, records, records_root, arguments.tables)
    shown_with_tables = {warning for summary in found for warning in summary.warnings}
    for warning in set_apart(records)[1].values():
        if warning not in shown_with_tables:
            console.print(Text(f"Warning. {warning}", style="bold red"))
    if page := tuning.write(preset, records, folder):
        console.print(Text(f"written: {page}"))
    elif not found:
        console.print(Text(f"preset {preset}: no page is written, because no table shows its records", style="yellow"))
    for summary in found:
        paths = write(summary, folder)
        show(summary, console)
        for path in paths:
            console.print(Text(f"written: {path}"))


def _show_not_copied(kept: Kept, records_root: Path, console: Console) -> None:
    """Print which records were not copied. The lines come after the tables, so that users do not overlook them."""
    for path, reasons in kept.not_added.items():
        text = (
            f"not copied: the record for {path}, because {plain('; '.join(reasons))}. Run all seeds of a row with the "
            "same configuration, or give this configuration a name with --experiment.variant NAME"
        )
        console.print(Text(text, style="bold yellow"), soft_wrap=True)
    for path, reasons in kept.left_alone.items():
        text = f"not replaced: {path}; the finished run differs from this record: {plain('; '.join(reasons))}"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    if kept.left_alone:
        names = " ".join(sorted({path.relative_to(records_root).parts[0] for path in kept.left_alone}))
        text = (
            f"Records that were not replaced: {len(kept.left_alone)}. The pages show the old records, not those of "
            f"the finished runs. To replace the old records, add --preset {names} --replace to the command."
        )
        console.print(Text(text, style="bold yellow"), soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. ``argv`` is by default ``sys.argv[1:]``.

    Returns:
        Exit status: 2 if an error was printed, else 0. It is also 0 if some records were not copied.
    """
    arguments = _parser().parse_args(argv)
    replace_unprintable()
    console, records_root = Console(), arguments.reports / "records"
    kept, status = Kept(), 0
    try:
        kept = _gather(arguments, records_root, console)
        known = presets(records_root)
        tables = all_tables(arguments.reports / "tables")
        if unknown := [name for name in arguments.tables if name not in tables]:
            raise InputError(f"--tables {unknown[0]}: there is no such table; the tables are {', '.join(tables)}")
        for preset in arguments.preset or known:
            if preset not in known:
                names = ", ".join(known) or "none"
                raise InputError(f"--preset {preset}: no records in {records_root}; presets with records: {names}")
            _render(preset, tables, arguments, console)
        if not known:
            raise InputError(
                f"there is no finished run in {arguments.runs} and no record in {records_root}; train a row first, for "
                "example with python train.py fit --config configs/table1/c_fpn.yaml"
            )
    except InputError as error:
        status = complain(error)
    _show_not_copied(kept, records_root, console)
    return status


if __name__ == "__main__":
    sys.exit(main())

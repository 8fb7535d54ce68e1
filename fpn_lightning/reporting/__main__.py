"""``python -m fpn_lightning.reporting``: collect finished runs and write tables of the paper's numbers and ours."""

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
        help="folder for records/ and the pages of each preset; may have tables/*.yaml (default: %(default)s)",
    )
    parser.add_argument("--preset", nargs="+", metavar="NAME", help="presets to render (default: all with records)")
    parser.add_argument(
        "--tables",
        nargs="+",
        metavar="NAME",
        default=[],
        help="tables to render even if no row has been run (default: tables with records)",
    )
    parser.add_argument(
        "--source", choices=("local", "wandb"), default="local", help="where finished runs are (default: %(default)s)"
    )
    parser.add_argument("--wandb-project", metavar="ENTITY/PROJECT", help="for --source wandb")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="also replace kept records of other data or another configuration, of --preset only if that is given",
    )
    return parser


def _gather(arguments: argparse.Namespace, records_root: Path, console: Console) -> Kept:
    """Copy the records of finished runs into ``records_root`` and print which runs are unfinished."""

    def replace(preset: str) -> bool:
        return arguments.replace and (not arguments.preset or preset in arguments.preset)

    online, project = arguments.source == "wandb", arguments.wandb_project
    if online and not project:
        raise InputError("--source wandb needs --wandb-project ENTITY/PROJECT")
    kept = collect(wandb_runs(project) if online else local_runs(arguments.runs), records_root, replace)
    where = f"their records are in {records_root}"
    others = len(kept.left_alone) + len(kept.not_added)
    if others:
        where = f"the records of {len(kept.written)} are in {records_root}, {others} were not copied (see below)"
    count = len(kept.written) + others
    console.print(Text(f"{count} finished runs in {project if online else arguments.runs}; {where}"))
    for name in kept.unfinished:
        console.print(Text(f"unfinished, left out: {plain(name)}", style="yellow"))
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
        console.print(Text(f"preset {preset}: its records belong to none of the tables", style="yellow"))
    for summary in found:
        paths = write(summary, folder)
        show(summary, console)
        for path in paths:
            console.print(Text(f"written: {path}"))


def _tell_left_alone(kept: Kept, records_root: Path, console: Console) -> None:
    """Print which records were not copied; after the tables, where it is seen."""
    for path, reasons in kept.not_added.items():
        text = (
            f"not copied: the record for {path}, because {plain('; '.join(reasons))}. Run all seeds of a row with one "
            "configuration, or name the other one with --experiment.variant"
        )
        console.print(Text(text, style="bold yellow"), soft_wrap=True)
    for path, reasons in kept.left_alone.items():
        text = f"left alone: {path}; in the finished run {plain('; '.join(reasons))}"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    if kept.left_alone:
        names = " ".join(sorted({path.relative_to(records_root).parts[0] for path in kept.left_alone}))
        text = (
            f"Kept records left alone: {len(kept.left_alone)}. The finished runs differ from them. "
            "The pages show the kept records, not these runs. To replace them: python -m fpn_lightning.reporting with "
            f"--preset {names} --replace"
        )
        console.print(Text(text, style="bold yellow"), soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with ``argv``, by default the arguments of the process.

    Returns:
        Exit status: 0, also if kept records were left alone, or 2 after a message on standard error.
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
            raise InputError(f"--tables {unknown[0]}: there is no such table; there are: {', '.join(tables)}")
        for preset in arguments.preset or known:
            if preset not in known:
                there = ", ".join(known) or "none"
                raise InputError(f"--preset {preset}: no records in {records_root}; presets that have some: {there}")
            _render(preset, tables, arguments, console)
        if not known:
            raise InputError(
                f"there is no finished run in {arguments.runs} and no record in {records_root}; "
                "train a row first: python train.py fit --config configs/table1/c_fpn.yaml"
            )
    except InputError as error:
        status = complain(error)
    _tell_left_alone(kept, records_root, console)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Copy the records of finished runs, from ``runs/`` or Weights & Biases, into ``reports/records/`` and load them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpn_lightning.errors import InputError
from fpn_lightning.runs.conditions import why_not_add, why_not_replace
from fpn_lightning.runs.record import FINISHED, Record

RECORD_NAME = "metrics.json"


@dataclass(frozen=True)
class Kept:
    """What was done with the records of finished runs.

    Attributes:
        written: kept files that were written.
        left_alone: kept files that were not replaced, with the reasons.
    """

    written: list[Path] = field(default_factory=list)
    left_alone: dict[Path, list[str]] = field(default_factory=dict)


def _never(preset: str) -> bool:
    return False


def _keep(records: Iterable[Record], records_root: Path, replace: Callable[[str], bool]) -> Kept:
    """Save records as ``<records_root>/<preset>/<table>/<row>/seed<n>.json``, unless there is a reason against it."""
    kept = Kept()
    for record in records:
        experiment = record.experiment
        target = records_root / experiment.path.with_name(f"seed{experiment.seed}.json")
        reasons = []
        if not replace(experiment.preset):
            if target.exists():
                reasons = why_not_replace(Record.load(target), record)
            elif others := sorted(target.parent.glob("seed*.json")):
                reasons = why_not_add(Record.load(others[0]), record)
        if reasons:
            kept.left_alone[target] = reasons
        else:
            record.save(target)
            kept.written.append(target)
    return kept


def _run_folders(runs_root: Path) -> list[Path]:
    return sorted(folder for folder in runs_root.glob("*/*/*/**/seed*") if folder.is_dir())


def _load_checked(path: Path, root: Path) -> Record:
    """Load a record and reject one in the folder of another experiment, such as a copied or renamed run."""
    record = Record.load(path)
    expected = root / record.experiment.path
    if path not in (expected / RECORD_NAME, expected.with_suffix(".json")):
        raise InputError(f"{path}: experiment: this is the record of {record.experiment}; move it to {expected}")
    return record


def collect(runs_root: Path, records_root: Path, replace: Callable[[str], bool] = _never) -> Kept:
    """Keep the record of every finished run; do not replace a kept record of other data or another configuration.

    Args:
        runs_root: folder with ``<preset>/<table>/<row>/seed<n>/metrics.json``; may be absent.
        records_root: folder for ``<preset>/<table>/<row>/seed<n>.json``. Records of deleted runs stay there.
        replace: whether the kept records of a preset are replaced in any case.

    Returns:
        The files written and those left alone.

    Raises:
        InputError: a malformed record, or one in the folder of another experiment.
    """
    paths = (folder / RECORD_NAME for folder in _run_folders(runs_root))
    records = (_load_checked(path, runs_root) for path in paths if path.is_file())
    return _keep((record for record in records if record.status == FINISHED), records_root, replace)


def find_unfinished(runs_root: Path) -> list[Path]:
    """Folders of runs without a record, or with one whose status is not ``finished``."""
    return [
        folder
        for folder in _run_folders(runs_root)
        if not (folder / RECORD_NAME).is_file() or Record.load(folder / RECORD_NAME).status != FINISHED
    ]


def load_all(records_root: Path, preset: str) -> list[Record]:
    """Load the kept records of a preset, ordered by table, row and seed.

    Raises:
        InputError: a malformed record, one in the folder of another experiment, or one that is not finished.
    """
    records = []
    for path in sorted((records_root / preset).glob("*/*/**/seed*.json")):
        record = _load_checked(path, records_root)
        if record.status != FINISHED:
            raise InputError(f"{path}: status: {record.status!r}; only finished runs are reported, remove the file")
        records.append(record)
    return sorted(records, key=lambda r: (r.experiment.table, r.experiment.row, r.experiment.seed))


def presets(records_root: Path) -> list[str]:
    """Names of the presets that have records."""
    if not records_root.is_dir():
        return []
    return sorted(folder.name for folder in records_root.iterdir() if any(folder.glob("*/*/**/seed*.json")))


def collect_wandb(
    project: str, records_root: Path, replace: Callable[[str], bool] = _never, api: Any = None
) -> tuple[Kept, list[str]]:
    """Keep the records that runs logged to Weights & Biases as the file ``metrics.json``.

    Of several runs of one experiment the one created last is used. Offline runs have to be synchronised first.

    Args:
        project: ``ENTITY/PROJECT``.
        records_root: as in :func:`collect`.
        replace: as in :func:`collect`.
        api: a ``wandb.Api``; made here if not given.

    Returns:
        The files written and those left alone, and the names of the runs without a finished record.

    Raises:
        InputError: a malformed record; names the run.
    """
    if api is None:
        import wandb  # takes seconds and is only needed here

        api = wandb.Api()
    newest: dict[Path, Record] = {}
    unfinished = []
    for run in api.runs(project, order="+created_at"):
        record = _download(run, project)
        if record is None or record.status != FINISHED:
            unfinished.append(str(run.name))
        else:
            newest[record.experiment.path] = record
    return _keep(newest.values(), records_root, replace), unfinished


def _download(run: Any, project: str) -> Record | None:
    try:
        file = run.file(RECORD_NAME)
    except IndexError:
        return None
    if not file.size:  # the server lists a file that was never uploaded with size 0
        return None
    with tempfile.TemporaryDirectory() as folder:
        file.download(root=folder, replace=True).close()
        try:
            return Record.load(Path(folder) / RECORD_NAME)
        except InputError as error:
            raise InputError(f"{project}, run {run.name} ({run.id}): {error}") from error

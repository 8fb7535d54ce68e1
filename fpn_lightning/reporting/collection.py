"""Copy records of finished runs, from ``runs/`` or Weights & Biases, to ``reports/records/``; load the copies."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fpn_lightning.errors import InputError
from fpn_lightning.runs.conditions import why_not_add, why_not_replace
from fpn_lightning.runs.directory import RECORD_NAME, moved_aside
from fpn_lightning.runs.record import FINISHED, Record
from fpn_lightning.text import markdown

_KEPT = "*/*/**/seed*"  # pattern of <table>/<row>/seed<n>; <table> and <row> can be nested folders


@dataclass(frozen=True)
class Kept:
    """What :func:`collect` did with the record of each run. All files are in ``reports/records/``.

    Attributes:
        written: files that were written.
        left_alone: files that were not replaced, each with the reasons.
        not_added: files that were not written, each with the differences between the run and the other seeds of its
            row.
        unfinished: names of the runs that have no record or are not finished. If a run has a record, its status and the
            reason of this status follow its name in brackets.
    """

    written: list[Path] = field(default_factory=list)
    left_alone: dict[Path, list[str]] = field(default_factory=dict)
    not_added: dict[Path, list[str]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)


def collect(
    runs: Iterable[tuple[str, Record | None]], records_root: Path, replace: Callable[[str], bool] = lambda preset: False
) -> Kept:
    """Copy the record of every finished run. A copy is not replaced by a record with other data or configuration.

    Args:
        runs: name and record of each run, from :func:`local_runs` or :func:`wandb_runs`. If several finished runs
            belong to one experiment, the last run is used.
        records_root: folder of the copies, ``<preset>/<table>/<row>/seed<n>.json``. No copy is ever deleted.
        replace: a function of a preset's name. It returns whether this preset's copies are replaced even if the new
            records differ from them.

    Raises:
        InputError: a record is malformed or is in the folder of another experiment.
    """
    kept, finished = Kept(), {}
    for name, record in runs:
        if record is None or record.status != FINISHED:
            kept.unfinished.append(name if record is None else f"{name} ({record.outcome})")
        else:
            finished[records_root / f"{record.experiment.path}.json"] = record
    for target, record in finished.items():
        others = sorted(target.parent.glob("seed*.json"))
        free = replace(record.experiment.preset)
        if not free and target.exists() and (reasons := why_not_replace(Record.load(target), record)):
            kept.left_alone[target] = reasons
        elif not free and others and target not in others and (reasons := why_not_add(Record.load(others[0]), record)):
            kept.not_added[target] = reasons
        else:
            record.save(target)
            kept.written.append(target)
    return kept


def _load_checked(path: Path, root: Path) -> Record:
    """Load a record. Raise InputError if its folder is that of another experiment, for example after a renaming."""
    record = Record.load(path)
    expected = root / record.experiment.path
    if path not in (expected / RECORD_NAME, expected.with_suffix(".json")):
        raise InputError(f"{path}: experiment: this is the record of {record.experiment}; move it to {expected}")
    return record


def local_runs(runs_root: Path) -> Iterable[tuple[str, Record | None]]:
    """Yield folder and record of each run in ``<runs_root>/<preset>/<table>/<row>/seed<n>/``.

    The record is ``None`` if the run has not written its record, or if a later run of the same experiment, started with
    ``--experiment.overwrite true``, moved the run to another folder.
    """
    for folder in sorted(runs_root.glob(f"*/{_KEPT}")):
        path = folder / RECORD_NAME
        if folder.is_dir() and re.fullmatch(r"seed\d+", folder.name):
            yield str(folder), _load_checked(path, runs_root) if path.is_file() else None
            for aside in moved_aside(folder):
                yield f"{aside} (moved aside by --experiment.overwrite true)", None


def load_all(records_root: Path, preset: str) -> list[Record]:
    """Load the copied records of a preset, ordered by table, row and seed.

    Raises:
        InputError: a record is malformed, is in the folder of another experiment, or is of an unfinished run.
    """
    records = []
    for path in sorted((records_root / preset).glob(f"{_KEPT}.json")):
        record = _load_checked(path, records_root)
        if record.status != FINISHED:
            raise InputError(f"{path}: status: {record.status!r}; pages show only finished runs; remove the file")
        records.append(_as_text(record))
    return sorted(records, key=lambda r: (r.experiment.table, r.experiment.row, r.experiment.seed))


def _as_text(record: Record) -> Record:
    """Escape the texts of a record for pages and terminals, except names of folders: these need no escaping."""
    data = record.data
    return replace(
        record,
        data=replace(
            data, name=markdown(data.name), split=markdown(data.split), fingerprint=markdown(data.fingerprint)
        ),
        hardware=markdown(record.hardware),
        versions={markdown(name): markdown(version) for name, version in record.versions.items()},
        commit=markdown(record.commit),
        config_sha256=markdown(record.config_sha256),
        backbone=markdown(record.backbone),
    )


def presets(records_root: Path) -> list[str]:
    """Names of the presets that have records."""
    return sorted({path.relative_to(records_root).parts[0] for path in records_root.glob(f"*/{_KEPT}.json")})


def wandb_runs(project: str, api: Any = None) -> Iterable[tuple[str, Record | None]]:
    """Yield name and record of each run of a Weights & Biases project, in order of creation.

    The record is the run's file ``metrics.json``, or ``None`` if the run has no such file. Offline runs
    have to be uploaded with ``wandb sync`` first.

    Args:
        project: ``ENTITY/PROJECT``.
        api: a ``wandb.Api``; by default a new one.

    Raises:
        InputError: the Weights & Biases project cannot be read, or the record of a run is malformed. The message names
            the run.
    """
    import wandb  # imported here because the import takes seconds

    try:
        api = wandb.Api() if api is None else api
    except wandb.errors.Error as error:
        raise InputError(f"--source wandb: {error} Log in with `wandb login`, or set WANDB_API_KEY.") from error
    try:
        for run in api.runs(project, order="+created_at"):
            yield str(run.name), _download(run, project)
    except InputError:
        raise
    except (wandb.errors.Error, ValueError, OSError) as error:  # ValueError: no such project; OSError: no network
        raise InputError(
            f"--wandb-project {project} cannot be read: {error}. Check the name of the project, and the login to wandb."
        ) from error


def _download(run: Any, project: str) -> Record | None:
    try:
        file = run.file(RECORD_NAME)
    except IndexError:
        return None
    if not file.size:  # the server also lists files that were never uploaded; their size is 0
        return None
    with tempfile.TemporaryDirectory() as folder:
        file.download(root=folder, replace=True).close()
        try:
            return Record.load(Path(folder) / RECORD_NAME)
        except InputError as error:
            raise InputError(f"{project}, run {run.name} ({run.id}): {error}") from error

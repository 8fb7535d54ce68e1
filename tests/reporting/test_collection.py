from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.reporting.collection import collect, collect_wandb, find_unfinished, load_all, presets
from fpn_lightning.runs.record import Record

MakeRecord = Callable[..., Record]


def _save_run(record: Record, runs: Path) -> Path:
    path = runs / record.experiment.path / "metrics.json"
    record.save(path)
    return path


def test_collects_finished_runs_only(tmp_path: Path, make_record: MakeRecord) -> None:
    runs, records = tmp_path / "runs", tmp_path / "reports" / "records"
    _save_run(make_record(seed=1), runs)
    _save_run(make_record("table2/steps/rpn"), runs)
    _save_run(make_record(seed=2, status="running"), runs)
    (runs / "mini/table1/a_conv4/seed0/validate").mkdir(parents=True)
    written = collect(runs, records)
    assert written == [records / "mini/table1/c_fpn/seed1.json", records / "mini/table2/steps/rpn/seed0.json"]
    assert find_unfinished(runs) == [runs / "mini/table1/a_conv4/seed0", runs / "mini/table1/c_fpn/seed2"]
    assert load_all(records, "mini") == [make_record(seed=1), make_record("table2/steps/rpn")]
    assert presets(records) == ["mini"]


def test_records_outlive_their_runs(tmp_path: Path, make_record: MakeRecord) -> None:
    records = tmp_path / "records"
    path = _save_run(make_record(), tmp_path / "runs")
    collect(tmp_path / "runs", records)
    path.unlink()
    assert collect(tmp_path / "runs", records) == []
    assert collect(tmp_path / "absent", records) == []
    assert load_all(records, "mini") == [make_record()]


def test_seeds_are_ordered_as_numbers(tmp_path: Path, make_record: MakeRecord) -> None:
    for seed in (10, 9, 2):
        _save_run(make_record(seed=seed), tmp_path / "runs")
    collect(tmp_path / "runs", tmp_path / "records")
    assert [record.experiment.seed for record in load_all(tmp_path / "records", "mini")] == [2, 9, 10]


def test_a_record_in_a_foreign_folder_is_refused(tmp_path: Path, make_record: MakeRecord) -> None:
    make_record(seed=0).save(tmp_path / "runs/mini/table1/c_fpn/seed1/metrics.json")
    with pytest.raises(InputError, match=r"seed1/metrics\.json: experiment: .*mini/table1/c_fpn seed 0"):
        collect(tmp_path / "runs", tmp_path / "records")


def test_an_unfinished_kept_record_is_refused(tmp_path: Path, make_record: MakeRecord) -> None:
    make_record(status="running").save(tmp_path / "mini/table1/c_fpn/seed0.json")
    with pytest.raises(InputError, match=r"seed0\.json: status: 'running'"):
        load_all(tmp_path, "mini")


def test_a_malformed_run_is_named(tmp_path: Path, make_record: MakeRecord) -> None:
    path = _save_run(make_record(), tmp_path / "runs")
    path.write_text("{")
    with pytest.raises(InputError, match=r"c_fpn/seed0/metrics\.json"):
        collect(tmp_path / "runs", tmp_path / "records")


class FakeFile:
    def __init__(self, text: str | None) -> None:
        self.text = text
        self.size = len(text or "")

    def download(self, root: str, replace: bool) -> IO[str]:
        assert self.text is not None
        assert replace
        path = Path(root) / "metrics.json"
        path.write_text(self.text)
        return path.open()


class FakeRun:
    def __init__(self, name: str, text: str | None, listed: bool = True) -> None:
        self.name = name
        self.id = f"id-{name}"
        self._text = text
        self._listed = listed

    def file(self, name: str) -> FakeFile:
        assert name == "metrics.json"
        if not self._listed:
            raise IndexError("list index out of range")
        return FakeFile(self._text)


class FakeApi:
    """What is used of ``wandb.Api``; runs come in order of creation when asked to."""

    def __init__(self, runs: list[FakeRun]) -> None:
        self._runs = runs

    def runs(self, path: str, order: str) -> Iterator[FakeRun]:
        assert path == "team/fpn"
        assert order == "+created_at"
        return iter(self._runs)


def _text(record: Record, tmp_path: Path) -> str:
    record.save(tmp_path / "scratch.json")
    return (tmp_path / "scratch.json").read_text()


def test_weights_and_biases_gives_the_same_files(tmp_path: Path, make_record: MakeRecord) -> None:
    kept = [make_record(), make_record("table1/d_bottom_up")]
    outdated = replace(kept[0], metrics={"AR100": 0.1})
    runs = [
        FakeRun("first try", _text(outdated, tmp_path)),
        FakeRun("c", _text(kept[0], tmp_path)),
        FakeRun("d", _text(kept[1], tmp_path)),
        FakeRun("running", _text(make_record(seed=3, status="running"), tmp_path)),
        FakeRun("crashed", None),
        FakeRun("other", None, listed=False),
    ]
    written, unfinished = collect_wandb("team/fpn", tmp_path / "wandb", FakeApi(runs))
    assert unfinished == ["running", "crashed", "other"]
    for record in kept:
        _save_run(record, tmp_path / "runs")
    local = collect(tmp_path / "runs", tmp_path / "local")
    assert [path.relative_to(tmp_path / "wandb") for path in written] == [
        path.relative_to(tmp_path / "local") for path in local
    ]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in local]


def test_a_malformed_record_names_the_wandb_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"team/fpn, run broken \(id-broken\): "):
        collect_wandb("team/fpn", tmp_path, FakeApi([FakeRun("broken", "{}")]))

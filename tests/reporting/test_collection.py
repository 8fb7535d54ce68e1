from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.reporting.collection import Kept, collect, collect_wandb, find_unfinished, load_all, presets
from fpn_lightning.runs.record import Data, Record, Train

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
    kept = collect(runs, records)
    assert kept.left_alone == {}
    assert kept.written == [records / "mini/table1/c_fpn/seed1.json", records / "mini/table2/steps/rpn/seed0.json"]
    assert find_unfinished(runs) == [runs / "mini/table1/a_conv4/seed0", runs / "mini/table1/c_fpn/seed2"]
    assert load_all(records, "mini") == [make_record(seed=1), make_record("table2/steps/rpn")]
    assert presets(records) == ["mini"]


def test_records_outlive_their_runs(tmp_path: Path, make_record: MakeRecord) -> None:
    records = tmp_path / "records"
    path = _save_run(make_record(), tmp_path / "runs")
    collect(tmp_path / "runs", records)
    path.unlink()
    assert collect(tmp_path / "runs", records) == Kept()
    assert collect(tmp_path / "absent", records) == Kept()
    assert load_all(records, "mini") == [make_record()]


def test_seeds_are_ordered_as_numbers(tmp_path: Path, make_record: MakeRecord) -> None:
    for seed in (10, 9, 2):
        _save_run(make_record(seed=seed), tmp_path / "runs")
    collect(tmp_path / "runs", tmp_path / "records")
    assert [record.experiment.seed for record in load_all(tmp_path / "records", "mini")] == [2, 9, 10]


def test_a_record_in_the_folder_of_another_run_is_rejected(tmp_path: Path, make_record: MakeRecord) -> None:
    make_record(seed=0).save(tmp_path / "runs/mini/table1/c_fpn/seed1/metrics.json")
    with pytest.raises(InputError, match=r"seed1/metrics\.json: experiment: .*mini/table1/c_fpn seed 0"):
        collect(tmp_path / "runs", tmp_path / "records")


def test_an_unfinished_kept_record_is_rejected(tmp_path: Path, make_record: MakeRecord) -> None:
    make_record(status="running").save(tmp_path / "mini/table1/c_fpn/seed0.json")
    with pytest.raises(InputError, match=r"seed0\.json: status: 'running'"):
        load_all(tmp_path, "mini")


def test_a_malformed_run_is_named(tmp_path: Path, make_record: MakeRecord) -> None:
    path = _save_run(make_record(), tmp_path / "runs")
    path.write_text("{")
    with pytest.raises(InputError, match=r"c_fpn/seed0/metrics\.json"):
        collect(tmp_path / "runs", tmp_path / "records")


DIFFERENT = {
    "config_sha256": {"config_sha256": "1" * 64},
    "data.name": {"data": Data(name="coco", split="val", fingerprint="f00d", num_images=500)},
    "data.split": {"data": Data(name="synthetic", split="tune", fingerprint="f00d", num_images=500)},
    "data.fingerprint": {"data": Data(name="synthetic", split="val", fingerprint="beef", num_images=500)},
    "train.steps": {"train": Train(steps=300, total_batch=8, num_images=5000)},
    "train.total_batch": {"train": Train(steps=1500, total_batch=16, num_images=5000)},
    "area_thresholds": {"area_thresholds": (1024.0, 9216.0)},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_kept_record_of_other_conditions_is_left_alone(key: str, tmp_path: Path, make_record: MakeRecord) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"
    _save_run(make_record(metrics={"AR100": 0.1}), runs)
    collect(runs, records)
    _save_run(make_record(**DIFFERENT[key]), runs)
    ((path, (reason,)),) = collect(runs, records).left_alone.items()
    assert path == records / "mini/table1/c_fpn/seed0.json"
    assert reason.startswith(f"{key} is ")
    assert load_all(records, "mini") == [make_record(metrics={"AR100": 0.1})]
    kept = collect(runs, records, replace=lambda preset: preset == "mini")
    assert kept == Kept([path])
    assert load_all(records, "mini") == [make_record(**DIFFERENT[key])]


def test_a_run_of_the_same_configuration_replaces_the_kept_record(tmp_path: Path, make_record: MakeRecord) -> None:
    for record in (make_record(), make_record(metrics={"AR100": 0.7}, hardware="1 GPU", commit="abcdef0")):
        _save_run(record, tmp_path / "runs")
        assert not collect(tmp_path / "runs", tmp_path / "records").left_alone
    assert load_all(tmp_path / "records", "mini") == [record]


def test_a_seed_that_cannot_be_averaged_with_the_kept_ones_is_left_alone(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"
    make_record(seed=0).save(records / "mini/table1/c_fpn/seed0.json")
    toy = make_record(seed=1)
    _save_run(replace(toy, train=replace(toy.train, steps=2)), runs)
    ((path, (reason,)),) = collect(runs, records).left_alone.items()
    assert path == records / "mini/table1/c_fpn/seed1.json"
    assert not path.exists()
    assert reason == f"train.steps is 2; the kept seeds have {toy.train.steps}"
    assert collect(runs, records, lambda preset: True).written == [path]


def test_a_kept_record_with_the_older_digest_is_left_alone(tmp_path: Path, make_record: MakeRecord) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"
    old = make_record(schema=1)
    _save_run(old, runs)
    for _ in range(2):  # the run that it is of may be collected again
        assert collect(runs, records) == Kept([records / "mini/table1/c_fpn/seed0.json"])
    _save_run(make_record(), runs)
    ((reason,),) = collect(runs, records).left_alone.values()
    assert reason.startswith("config_sha256 cannot be compared")
    _save_run(replace(old, config_sha256="1" * 64), runs)
    ((reason,),) = collect(runs, records).left_alone.values()
    assert reason == "config_sha256 is 111111111111 and was 000000000000"
    assert load_all(records, "mini") == [old]


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
    kept_online, unfinished = collect_wandb("team/fpn", tmp_path / "wandb", api=FakeApi(runs))
    written = kept_online.written
    assert unfinished == ["running", "crashed", "other"]
    for record in kept:
        _save_run(record, tmp_path / "runs")
    local = collect(tmp_path / "runs", tmp_path / "local").written
    assert [path.relative_to(tmp_path / "wandb") for path in written] == [
        path.relative_to(tmp_path / "local") for path in local
    ]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in local]


def test_weights_and_biases_does_not_replace_a_record_of_other_conditions(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    def gather(*records: Record, replace: bool = False) -> Kept:
        runs = [FakeRun(str(number), _text(record, tmp_path)) for number, record in enumerate(records)]
        return collect_wandb("team/fpn", tmp_path / "records", lambda preset: replace, FakeApi(runs))[0]

    first, other = make_record(steps=300), make_record()
    # Of two runs of one experiment the later counts, whatever the earlier was.
    assert gather(first, other).left_alone == {}
    assert load_all(tmp_path / "records", "mini") == [other]
    assert list(gather(other, first).left_alone.values()) == [["train.steps is 300 and was 1500"]]
    assert load_all(tmp_path / "records", "mini") == [other]
    assert gather(other, first, replace=True).left_alone == {}
    assert load_all(tmp_path / "records", "mini") == [first]


def test_a_malformed_record_names_the_wandb_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"team/fpn, run broken \(id-broken\): "):
        collect_wandb("team/fpn", tmp_path, api=FakeApi([FakeRun("broken", "{}")]))

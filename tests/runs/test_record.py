from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpn_lightning.errors import InputError
from fpn_lightning.runs.record import MAX_BYTES, Record, write_whole
from tests.command_line import REPOSITORY

MakeRecord = Callable[..., Record]


def test_round_trip_and_stable_bytes(tmp_path: Path, make_record: MakeRecord) -> None:
    record = make_record(
        metrics={"AR100": 0.1 + 0.2, "AR1k_l": None, "loss_rpn_cls": 3.5},
        untrained={"AR100": 0.01},
        curves={"train/loss": [(0, 2.5), (10, 1.25)]},
        parents=["runs/mini/table1/c_fpn/seed0"],
        backbone="resnet50",
    )
    record.save(tmp_path / "deep" / "metrics.json")
    again = Record.load(tmp_path / "deep" / "metrics.json")
    assert again == record
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "deep" / "metrics.json").read_bytes()
    content = json.loads((tmp_path / "again.json").read_text())
    assert content["schema"] == 3
    assert content["backbone"] == "resnet50"
    assert content["experiment"] == {"table": "table1", "row": "c_fpn", "preset": "mini", "seed": 0}


@pytest.mark.parametrize("schema", [1, 2])
def test_old_records_are_read_and_written_as_they_are(schema: int, tmp_path: Path, make_record: MakeRecord) -> None:
    make_record(schema=schema, backbone="resnet50").save(tmp_path / "old.json")
    assert json.loads((tmp_path / "old.json").read_text())["trunk"] == "resnet50"
    old = Record.load(tmp_path / "old.json")
    assert (old.schema, old.backbone) == (schema, "resnet50")
    old.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "old.json").read_bytes()


def test_the_committed_records_are_read_and_written_as_they_are(tmp_path: Path) -> None:
    for path in sorted((REPOSITORY / "reports/records").rglob("seed0.json")):
        Record.load(path).save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_long_curves_are_thinned_to_50_kb(tmp_path: Path, make_record: MakeRecord) -> None:
    curves = {f"curve{n}": [(step, step / 7) for step in range(90_000)] for n in range(12)}
    make_record(curves=curves).save(tmp_path / "metrics.json")
    size = (tmp_path / "metrics.json").stat().st_size
    assert 10_000 < size <= MAX_BYTES == 50_000
    thinned = Record.load(tmp_path / "metrics.json").curves
    for name, points in thinned.items():
        assert points[0] == curves[name][0]
        assert points[-1] == curves[name][-1]
        steps = [step for step, _ in points]
        gaps = {right - left for left, right in pairwise(steps)}
        assert max(gaps) - min(gaps) <= 1


def test_the_ap_of_each_class_is_kept_while_there_is_room(tmp_path: Path, make_record: MakeRecord) -> None:
    curves = {"val/AP": [(step, 0.5) for step in range(4000)]}
    few, many = ({f"category {number}": 0.25 for number in range(count)} for count in (1203, 4000))
    for per_class, kept in ((few, few), (many, None)):
        make_record(curves=curves, per_class=per_class).save(tmp_path / "metrics.json")
        assert (tmp_path / "metrics.json").stat().st_size <= 50_000
        assert Record.load(tmp_path / "metrics.json").per_class == kept


def test_more_than_50_kb_without_curves_is_rejected(tmp_path: Path, make_record: MakeRecord) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(InputError, match=r"metrics\.json: .*50000 bytes"):
        make_record(hardware="x" * MAX_BYTES).save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 4}, "schema: 4 is later than 3"),
        ({"metrics": {"AP": 33.9}}, r"metrics\.AP: 33\.9 is not a fraction"),
        ({"metrics": {"segm_AR1k_s": 32.5}}, r"metrics\.segm_AR1k_s: 32\.5"),
        ({"untrained": {"AR100": -0.1}}, r"untrained\.AR100: -0\.1"),
        ({"metrics": {"AP": "0.3"}}, r"metrics\.AP: .*number"),
        ({"metrics": {"AP": float("nan")}}, r"metrics\.AP: .*finite"),
        ({"parameters": 1.5}, "parameters: "),
        ({"parameters": -1}, "parameters: "),
        ({"peak_memory": 3.0}, "peak_memory: "),
        ({"area_thresholds": [1024.0]}, r"area_thresholds\.1: .*required"),
        ({"curves": {"loss": [[1, 2, 3]]}}, r"curves\.loss\.0"),
        ({"experiment": {"table": "table1", "row": "../c", "preset": "mini", "seed": 0}}, r"experiment\.row: '\.\./c'"),
        ({"experiment": {"table": "table1", "preset": "mini", "seed": 0}}, r"experiment\.row: .*required"),
        ({"experiment": {"table": "table1", "row": "c", "preset": "mini", "seed": -1}}, r"experiment\.seed: "),
    ],
)
def test_a_malformed_record_names_file_and_key(
    change: dict[str, Any], message: str, tmp_path: Path, make_record: MakeRecord
) -> None:
    path = tmp_path / "metrics.json"
    make_record().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=rf"metrics\.json: {message}"):
        Record.load(path)


@pytest.mark.parametrize("missing", ["schema", "metrics", "data", "commit", "status"])
def test_a_missing_key_is_named(missing: str, tmp_path: Path, make_record: MakeRecord) -> None:
    path = tmp_path / "metrics.json"
    make_record().save(path)
    content = json.loads(path.read_text())
    del content[missing]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"metrics\.json: {missing}: "):
        Record.load(path)


@pytest.mark.parametrize("text", ["{", "", "[]", "\x80"])
def test_a_file_that_is_not_a_record(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"metrics\.json"):
        Record.load(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        Record.load(tmp_path / "nothing.json")


def test_save_rejects_what_load_rejects_and_leaves_the_old_file(tmp_path: Path, make_record: MakeRecord) -> None:
    path = tmp_path / "metrics.json"
    good = make_record()
    good.save(path)
    for metrics in ({"AP": 33.9}, {"AP": float("inf")}, {"AP": object()}):
        with pytest.raises(InputError, match=r"metrics\.json"):
            replace(good, metrics=metrics).save(path)
    assert Record.load(path) == good
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metrics=st.dictionaries(st.sampled_from(["AP", "APs", "AR10", "AR1k_m"]), st.none() | st.floats(0, 1)),
    losses=st.dictionaries(
        st.text(min_size=1, max_size=20).map("loss {}".format), st.floats(allow_nan=False, allow_infinity=False)
    ),
)
def test_any_finite_metrics_survive(
    metrics: dict[str, float | None], losses: dict[str, float], tmp_path: Path, make_record: MakeRecord
) -> None:
    make_record(metrics=metrics | losses).save(tmp_path / "metrics.json")
    assert Record.load(tmp_path / "metrics.json").metrics == metrics | losses


@pytest.mark.parametrize("text", ["[" * 200_000, '{"schema": 3, "x": ' + "[" * 200_000])
def test_a_deeply_nested_record_is_rejected(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.json cannot be read as a run record"):
        Record.load(tmp_path / "metrics.json")

"""Which records are kept, from ``runs/`` and from Weights & Biases, and which kept records are replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fpn_lightning.errors import InputError
from fpn_lightning.reporting.collection import Kept, collect, load_all, local_runs, presets, wandb_runs
from fpn_lightning.runs.record import Data, Record
from tests.records import a_record
from tests.reporting.builders import OnlineApi, OnlineRun, files, save_runs

KEPT = "mini/table1/c_fpn/seed0.json"


@pytest.fixture
def gather(tmp_path: Path):
    """Saves records as runs and collects all runs into ``<tmp_path>/records``."""

    def make(*records: Record, replaced: tuple[str, ...] = ()) -> Kept:
        save_runs(list(records), tmp_path / "runs")
        return collect(local_runs(tmp_path / "runs"), tmp_path / "records", lambda preset: preset in replaced)

    return make


def test_finished_runs_are_kept_in_the_order_of_their_seeds(tmp_path: Path, gather) -> None:
    finished = [a_record(seed=2), a_record(seed=9), a_record(seed=10), a_record("table2/steps/rpn")]
    (tmp_path / "runs/mini/table1/a_conv4/seed0/validate").mkdir(parents=True)
    a_record(seed=2).save(tmp_path / "runs/mini/table1/c_fpn/seed2.replaced/metrics.json")
    kept = gather(*finished[::-1], a_record(seed=3, status="out_of_time", reason="after 3 of 4 steps"))
    names = [f"mini/table1/c_fpn/seed{seed}.json" for seed in (10, 2, 9)] + ["mini/table2/steps/rpn/seed0.json"]
    assert kept.written == [tmp_path / "records" / name for name in names]
    assert kept.left_alone == {}
    assert kept.unfinished == [
        f"{tmp_path}/runs/mini/table1/a_conv4/seed0",
        f"{tmp_path}/runs/mini/table1/c_fpn/seed2.replaced (moved aside by --experiment.overwrite true)",
        f"{tmp_path}/runs/mini/table1/c_fpn/seed3 (out_of_time: after 3 of 4 steps)",
    ]
    assert load_all(tmp_path / "records", "mini") == finished
    assert presets(tmp_path / "records") == ["mini"]
    # Records outlive their runs.
    assert collect(local_runs(tmp_path / "absent"), tmp_path / "records") == Kept()
    assert load_all(tmp_path / "records", "mini") == finished


def test_records_that_are_not_what_their_place_says_are_rejected(tmp_path: Path, gather) -> None:
    path = tmp_path / "runs/mini/table1/c_fpn/seed1/metrics.json"
    a_record(seed=0).save(path)
    with pytest.raises(InputError, match=r"seed1/metrics\.json: experiment: .*mini/table1/c_fpn seed 0"):
        gather()
    path.write_text("{")
    with pytest.raises(InputError, match=r"c_fpn/seed1/metrics\.json"):
        gather()
    a_record(status="running").save(tmp_path / "records" / KEPT)
    with pytest.raises(InputError, match=r"seed0\.json: status: 'running'"):
        load_all(tmp_path / "records", "mini")


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("config_sha256", {"config_sha256": "1" * 64}),
        ("data.fingerprint", {"data": Data(name="synthetic", split="val", fingerprint="beef", num_images=500)}),
    ],
)  # all keys: test_mixing.py
def test_a_kept_record_of_other_conditions_is_left_alone(key: str, changes, tmp_path: Path, gather) -> None:
    gather(a_record(metrics={"AR100": 0.1}))
    ((path, (reason,)),) = gather(a_record(**changes), replaced=("8gpu",)).left_alone.items()
    assert path == tmp_path / "records" / KEPT
    assert reason.startswith(f"{key} is ")
    assert load_all(tmp_path / "records", "mini") == [a_record(metrics={"AR100": 0.1})]
    assert gather(replaced=("mini",)) == Kept([path])
    assert load_all(tmp_path / "records", "mini") == [a_record(**changes)]


def test_a_run_of_the_same_configuration_replaces_the_kept_record(tmp_path: Path, gather) -> None:
    for record in (a_record(), a_record(metrics={"AR100": 0.7}, hardware="1 GPU", commit="abcdef0")):
        assert not gather(record).left_alone
    assert load_all(tmp_path / "records", "mini") == [record]


def test_a_seed_that_cannot_be_averaged_with_the_kept_ones_is_not_added(tmp_path: Path, gather) -> None:
    a_record(seed=0).save(tmp_path / "records" / KEPT)
    ((path, (reason,)),) = gather(a_record(seed=1, steps=2)).not_added.items()
    assert path == tmp_path / "records/mini/table1/c_fpn/seed1.json"
    assert not path.exists()
    assert reason == "train.steps is 2, but 1500 in the row's earlier records"
    assert gather(replaced=("mini",)).written == [path]


def test_a_kept_record_with_the_older_digest_is_left_alone(tmp_path: Path, gather) -> None:
    old = a_record(schema=1)
    for _ in range(2):  # the run that it is of may be collected again
        assert gather(old) == Kept([tmp_path / "records" / KEPT])
    ((reason,),) = gather(a_record()).left_alone.values()
    assert reason.startswith("config_sha256 cannot be compared")
    ((reason,),) = gather(replace(old, config_sha256="1" * 64)).left_alone.values()
    assert reason == "config_sha256 is 111111111111 and was 000000000000"
    assert load_all(tmp_path / "records", "mini") == [old]


def online(name: str, record: Record, tmp_path: Path) -> OnlineRun:
    record.save(tmp_path / "scratch.json")
    return OnlineRun(name, (tmp_path / "scratch.json").read_bytes())


def test_weights_and_biases_gives_the_same_files_from_the_latest_runs(tmp_path: Path, gather) -> None:
    kept = [a_record(), a_record("table1/d_bottom_up")]
    runs = [
        online("first try", replace(kept[0], metrics={"AR100": 0.1}, config_sha256="1" * 64), tmp_path),
        online("c", kept[0], tmp_path),
        online("d", kept[1], tmp_path),
        online("running", a_record(seed=3, status="running"), tmp_path),
        OnlineRun("crashed", b""),
        OnlineRun("other", None),
    ]
    found = collect(wandb_runs("team/fpn", OnlineApi(runs)), tmp_path / "wandb")
    assert found.left_alone == {}
    assert found.unfinished == ["running (running)", "crashed", "other"]
    gather(*kept)
    assert files(tmp_path / "wandb") == files(tmp_path / "records")
    with pytest.raises(InputError, match=r"team/fpn, run broken \(id-broken\): "):
        collect(wandb_runs("team/fpn", OnlineApi([OnlineRun("broken", b"{}")])), tmp_path)


def test_a_project_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    class NoApi:
        def runs(self, project: str, order: str) -> None:
            raise ValueError(f"Could not find project {project}")

    with pytest.raises(InputError, match=r"--wandb-project team/none cannot be read: Could not find project team/none"):
        collect(wandb_runs("team/none", NoApi()), tmp_path)

"""The chain of Table 2 from the command line: an RPN, its store of proposals, Fast R-CNN on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fpn_lightning.data.proposals.store import ProposalStore
from fpn_lightning.evaluation.__main__ import main as score
from tests.command_line import REPOSITORY, read_metrics, run_python

TABLE2 = REPOSITORY / "configs" / "table2"


@pytest.fixture
def rpn(cli, arguments, run) -> Path:
    """The run of an RPN, one step long."""
    cli("fit", *arguments, "--trainer.max_steps", "1")
    return run


@pytest.fixture
def stores(cli, rpn) -> Path:
    """The folder of its proposals for both splits."""
    for split in ("train", "val"):
        cli("predict", "--config", str(rpn / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", split)
    return rpn / "proposals"


@pytest.fixture
def fast_rcnn(arguments) -> list[str]:
    """Arguments of Fast R-CNN, without its proposals."""
    return ["--config", str(TABLE2 / "c_fpn.yaml"), *arguments[2:]]


def test_the_store_has_the_proposals_of_the_model(cli, rpn, stores):
    called = cli("predict", "--config", str(rpn / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", "val")
    store = ProposalStore(stores / "val")
    assert len(store) == 5
    assert len(ProposalStore(stores / "train")) == 13  # images without objects too
    checkpoint = (rpn / "checkpoints" / "last.ckpt").read_bytes()
    assert store.header.checkpoint_sha256 == hashlib.sha256(checkpoint).hexdigest()
    assert (store.header.split, store.header.post_nms_topk, store.header.nms_thresh) == ("val", 2000, 0.7)
    assert store.header.fingerprint == json.loads((rpn / "metrics.json").read_text())["data"]["fingerprint"]
    model = called.model.eval()
    for batch in called.datamodule.predict_dataloader():
        with torch.no_grad():
            (expected,) = model.predict_step(batch, 0)
        stored = store.read(expected.image_id)
        assert np.array_equal(stored.boxes_orig, expected.boxes_orig.float().numpy())
        assert np.array_equal(stored.objectness, expected.objectness.numpy())
        assert np.array_equal(stored.levels, expected.levels.numpy())


def test_the_scorer_computes_the_runs_recall_from_a_store(cli, rpn, stores, tiny_data, tmp_path, capsys):
    annotations = tiny_data / "annotations" / "instances_val.json"
    limits, thresholds = ["--limits", "10", "100", "1000"], ["--area-thresholds", "85", "769"]
    out = tmp_path / "scores.json"
    command = [str(annotations), str(stores / "val"), "--metric", "proposals", "--output", str(out)]
    assert score([*command, *limits, *thresholds]) == 0
    scored, logged = json.loads(out.read_text()), read_metrics(rpn / "metrics.json")
    assert scored["AR1k"] > 0
    assert {key: logged[key] for key in scored} == scored
    # Proposals have no categories, so they cannot be scored as detections.
    assert score([*command[:2], "--metric", "bbox"]) == 2
    assert "--metric proposals" in capsys.readouterr().err
    other = tiny_data / "annotations" / "instances_train.json"
    assert score([str(other), *command[1:]]) == 2
    assert "another annotation file" in capsys.readouterr().err


def test_fast_rcnn_from_the_store_to_scored_detections(cli, stores, fast_rcnn, tiny_data, tmp_path):
    cli("fit", *fast_rcnn, "--data.proposals", str(stores), "--trainer.max_steps", "2")
    run = tmp_path / "runs" / "mini" / "table2" / "c_fpn" / "seed0"
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"} <= record["metrics"].keys()
    header = ProposalStore(stores / "train").header
    assert [f"{stores / 'train'} checkpoint sha256:{header.checkpoint_sha256}"] == record["parents"]
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    cli("validate", *saved)
    assert read_metrics(run / "validate" / "metrics.json") == record["metrics"]
    # With every score kept, an untrained detector finds something; its file scores as the metric says.
    keep = ["--model.detector.roi_heads.score_thresh", "0.0"]
    cli("validate", *saved, *keep)
    cli("predict", *saved, *keep, "--data.predict_split", "val")
    results = run / "predict" / "detections.json"
    rows = json.loads(results.read_text())
    categories = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())["categories"]
    assert {row["category_id"] for row in rows} <= {category["id"] for category in categories}
    assert max(np.bincount([row["image_id"] for row in rows])) <= 100
    assert not (run / "proposals").exists()
    out = tmp_path / "scores.json"
    annotations = str(tiny_data / "annotations" / "instances_val.json")
    thresholds = ["--area-thresholds", "85", "769"]
    assert score([annotations, str(results), "--metric", "bbox", "--output", str(out), *thresholds]) == 0
    scored, logged = json.loads(out.read_text()), read_metrics(run / "validate" / "metrics.json")
    assert scored.keys() == logged.keys()
    for key, value in scored.items():
        assert value == pytest.approx(logged[key], abs=1e-9), key


def test_a_row_uses_the_proposals_that_it_names(cli, stores, fast_rcnn, tiny_data, tmp_path, capsys):
    run = tmp_path / "runs" / "mini" / "table2" / "c_fpn" / "seed0"
    cli("fit", *fast_rcnn, "--trainer.max_steps", "1")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["proposals"] == str(stores)
    by_key = json.loads((run / "metrics.json").read_text())
    cli("validate", *fast_rcnn, "--ckpt_path", "last")
    assert read_metrics(run / "validate" / "metrics.json") == by_key["metrics"]
    # The same proposals given by hand are the same experiment, with or without the key.
    hand = ["--data.proposals", str(stores), "--experiment.overwrite", "true", "--experiment.proposals_of"]
    for key in ("table1/c_fpn", ""):
        cli("fit", *fast_rcnn, "--trainer.max_steps", "1", *hand, key)
        by_hand = json.loads((run / "metrics.json").read_text())
        for same in ("config_sha256", "metrics", "parents"):
            assert by_hand[same] == by_key[same]
    # --data.proposals overrides the key; a folder of images has no proposals.
    with pytest.raises(SystemExit):
        cli("fit", *fast_rcnn, "--data.proposals", "elsewhere", "--seed_everything", "1")
    assert "elsewhere/train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli("predict", *fast_rcnn, "--ckpt_path", "last", "--data.predict_path", str(tiny_data / "val"))
    assert "Folders of images have no proposals" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli("fit", *fast_rcnn, "--seed_everything", "1")
    error = capsys.readouterr().err
    assert "python train.py fit --config configs/table1/c_fpn.yaml --preset mini --seed_everything 1" in error
    assert "make row ROW=table2/c_fpn PRESET=mini SEED=1" in error


def test_proposals_of_other_weights_are_overwritten_only_if_told_so(cli, arguments, rpn, stores, capsys):
    predict = ["predict", "--config", str(rpn / "config.yaml"), "--ckpt_path", "last", "--data.predict_split", "val"]
    before = {path: path.read_bytes() for path in stores.rglob("*") if path.is_file()}
    cli("fit", *arguments, "--trainer.max_steps", "2", "--ckpt_path", "last")
    with pytest.raises(SystemExit) as stop:
        cli(*predict)
    assert stop.value.code == 2
    assert (
        f"{stores / 'val'} contains proposals made with other weights or another configuration"
        in capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in stores.rglob("*") if path.is_file()} == before
    cli(*predict, "--experiment.overwrite", "true")
    checkpoint = (rpn / "checkpoints" / "last.ckpt").read_bytes()
    assert ProposalStore(stores / "val").header.checkpoint_sha256 == hashlib.sha256(checkpoint).hexdigest()


def test_fast_rcnn_without_its_proposals_stops_at_the_start(stores, fast_rcnn, tmp_path):
    without = run_python("fit", *fast_rcnn, "--experiment.proposals_of", "")
    assert without.returncode == 2
    assert "--data.proposals RUN/proposals" in without.stderr
    assert "Traceback" not in without.stderr
    (stores / "train" / "header.json").unlink()
    lost = run_python("fit", *fast_rcnn)
    assert lost.returncode == 2
    message = f"error: table1/c_fpn has no proposals in {stores / 'train'}. Run: python train.py predict"
    assert lost.stderr.splitlines()[-1].startswith(message)
    half = run_python("fit", *fast_rcnn, "--data.proposals", str(stores))
    assert half.returncode == 2
    assert "header.json is missing" in half.stderr


@pytest.mark.slow
def test_two_processes_write_the_same_store_and_train_the_same_detector(cli, rpn, stores, fast_rcnn, tmp_path):
    saved = ["--config", str(rpn / "config.yaml"), "--ckpt_path", str(rpn / "checkpoints" / "last.ckpt")]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--experiment.root", str(tmp_path / "two")]
    done = run_python("predict", *saved, *two, "--data.predict_split", "val")
    assert done.returncode == 0, done.stderr[-3000:]
    other = ProposalStore(tmp_path / "two" / rpn.relative_to(tmp_path / "runs") / "proposals" / "val")
    one = ProposalStore(stores / "val")
    assert len(other.header.shards) == 2
    for image_id in one.image_ids.tolist():
        assert all(map(np.array_equal, one.read(image_id), other.read(image_id)))

    # GroupNorm, since live BatchNorm averages over the images of a process.
    common = [*fast_rcnn, "--data.proposals", str(stores), "--trainer.max_steps", "2"]
    common += ["--data.batch_size_per_device", "2", "--model.detector.backbone.norm", "group"]
    for options in (common, [*common, *two]):
        done = run_python("fit", *options)
        assert done.returncode == 0, done.stderr[-3000:]
    runs = [tmp_path / root / "mini" / "table2" / "c_fpn" / "seed0" for root in ("runs", "two")]
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert read_metrics(runs[0] / "metrics.json") == read_metrics(runs[1] / "metrics.json")

"""``model.init_from``: prefixes of wrapped models, published weights by name, and data with other classes."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from fpn_lightning.errors import InputError
from fpn_lightning.models.detector import Detector
from fpn_lightning.weights.init_from import fetch_weights, load_weights, split_source
from tests.command_line import read_log, read_metrics, weights
from tests.weights.builders import small_backbone, torchvision_model, zoo_detector

PREDICTOR = "roi_heads.predictor."
PUBLISHED = FasterRCNN_ResNet50_FPN_Weights.COCO_V1


def detector(project: str = "torchvision", **changes) -> Detector:
    return zoo_detector(f"{project}_r50_fpn", backbone=small_backbone(project), fc_width=32, **changes)


def three_classes(project: str = "torchvision") -> Detector:
    torch.manual_seed(1)
    return detector(project, roi_heads="fpn_lightning.models.roi_heads.RoIHeads", num_classes=3)


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    return torchvision_model("resnet18", 32).state_dict()


def saved(content: object, file: Path) -> str:
    torch.save(content, file)
    return str(file)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_the_prefix_of_a_wrapped_model_is_left_out_and_named(theirs, tmp_path, prefix):
    wrapped = {prefix + name: tensor for name, tensor in theirs.items()}
    plain, other = detector(), detector()
    load_weights(plain, f"torchvision:{saved(theirs, tmp_path / 'plain.pth')}")
    for content in (wrapped, {"state_dict": wrapped, "epoch": 3}):
        with pytest.warns(UserWarning, match=rf"wrapped\.pth: the prefix {prefix} was removed from all tensor names$"):
            load_weights(other, f"torchvision:{saved(content, tmp_path / 'wrapped.pth')}")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "detector._orig_mod.", "model.detector."])
def test_our_own_checkpoints_are_unwrapped_too(tmp_path, prefix):
    source, other = detector(), three_classes()
    wrapped = {prefix + name: tensor for name, tensor in other.state_dict().items()}
    path = saved({"state_dict": wrapped}, tmp_path / "last.ckpt")
    with (
        pytest.warns(UserWarning, match="was removed from all tensor names"),
        pytest.raises(InputError, match="classes"),
    ):
        load_weights(source, path)
    again = three_classes()
    torch.nn.init.zeros_(again.rpn.heads[0].conv.weight)
    with pytest.warns(UserWarning, match="was removed from all tensor names"):
        load_weights(again, path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_no_message_lists_more_than_five_tensors(theirs, tmp_path):
    strange = saved({f"net.{name}": tensor for name, tensor in theirs.items()}, tmp_path / "strange.pth")
    own = saved({"state_dict": {f"net.{name}": tensor for name, tensor in theirs.items()}}, tmp_path / "own.ckpt")
    anchors = {"proposal_generator.anchor_generator.cell_anchors.0": torch.arange(400.0)}
    odd = saved(anchors, tmp_path / "odd.pth")
    for source, model in (
        (f"torchvision:{strange}", detector()),
        (own, detector()),
        (f"detectron2:{odd}", detector("detectron2")),
    ):
        with pytest.raises(InputError) as rejection:
            load_weights(model, source)
        assert len(str(rejection.value)) < 700
        assert str(rejection.value).count(".weight") + str(rejection.value).count(".bias") <= 5


def detectron2_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors for our detector of detectron2's zoo, with its names and 81 logits."""
    from fpn_lightning.weights.detectron2 import name_of

    ours = detector("detectron2").state_dict()
    return {name_of(name): tensor for name, tensor in ours.items() if name_of(name)}


@pytest.mark.parametrize("project", ["torchvision", "detectron2", ""])
def test_a_new_class_predictor_on_the_rest_of_a_detector(theirs, tmp_path, project):
    source = detector(project or "torchvision")
    if project:
        content = theirs if project == "torchvision" else detectron2_names(theirs)
        path = f"{project}:{saved(content, tmp_path / 'coco.pth')}"
    else:
        path = saved({"state_dict": source.state_dict()}, tmp_path / "last.ckpt")
    model = three_classes(project or "torchvision")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=r"--model\.new_classes true\.$"):
        load_weights(model, path)
    with pytest.warns(
        UserWarning,
        match=r"class predictor of the file is not loaded; roi_heads\.predictor\.\* keeps its initial values$",
    ):
        load_weights(model, path, new_classes=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(source, path)
    for name, tensor in model.state_dict().items():
        expected = before[name] if name.startswith(PREDICTOR) else source.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_an_rpn_gives_a_detector_its_backbone_pyramid_and_rpn(tmp_path):
    source, model = detector(), three_classes()
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("roi_heads.")}
    path = saved({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=r"keep their initial values: roi_heads\.box_head\.fc1\.bias, (\S+ ?){3}$"):
        load_weights(model, path, new_classes=True)
    assert torch.equal(model.rpn.heads[0].conv.weight, source.rpn.heads[0].conv.weight)


@pytest.fixture
def three_categories(tiny_data, tmp_path) -> Path:
    """The tiny data set, its objects in three categories with ids 7, 3 and 900."""
    ids = (7, 3, 900)
    for split in ("train", "val"):
        content = json.loads((tiny_data / "annotations" / f"instances_{split}.json").read_text())
        content["categories"] = [{"id": number, "name": f"kind {number}"} for number in ids]
        for item in content["annotations"]:
            item["category_id"] = ids[item["category_id"] % 3]
        (tmp_path / "DATA" / "annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / "DATA" / split).symlink_to(tiny_data / split)
        (tmp_path / "DATA" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path / "DATA"


def test_the_preset_finetune_trains_resumes_validates_and_predicts_three_classes(
    cli, theirs, tmp_path, three_categories, capsys
):
    """13 images in batches of 2 are 7 steps an epoch."""
    path = saved(theirs, tmp_path / "coco.pth")
    command = [
        *("fit", "--config", "configs/zoo/torchvision_r50_fpn.yaml", "--preset", "finetune"),
        *("--experiment.root", str(tmp_path / "runs"), "--model.init_from", f"torchvision:{path}"),
        *("--model.detector.backbone.name", "resnet18", "--model.detector.fc_width", "32"),
        *("--data.root", str(three_categories), "--data.num_classes", "3", "--data.num_workers", "0"),
        *("--data.short_side", "64", "--data.max_side", "64", "--trainer.check_val_every_n_epoch", "1"),
        *("--data.total_batch_size", "2", "--data.batch_size_per_device", "2", "--trainer.log_every_n_steps", "1"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--model.detector.rpn.post_nms_topk", "100"),
    ]
    with pytest.raises(SystemExit):
        cli(*command, "--model.new_classes", "false")
    assert "--model.new_classes true" in capsys.readouterr().err
    command += ["--model.optimization.lr", "1e-9"]
    cli(*command, "--trainer.max_epochs", "1")
    run = tmp_path / "runs" / "finetune" / "own" / "torchvision_r50_fpn" / "seed0"
    trained = weights(run)
    assert trained[f"{PREDICTOR}class_logits.weight"].shape == (4, 32)
    torch.testing.assert_close(trained["roi_heads.box_head.fc1.bias"], theirs["roi_heads.box_head.fc6.bias"])

    cli(*command, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    record = json.loads((run / "metrics.json").read_text())
    assert (record["status"], record["train"]["steps"]) == ("finished", 14)
    assert record["per_class"].keys() == {"kind 7", "kind 3", "kind 900"}
    assert [int(row["step"]) for row in read_log(run, "val/AP")] == [7, 14]
    assert [int(row["step"]) for row in read_log(run, "train/loss")] == list(range(14))

    run_config = ["--config", str(run / "config.yaml"), "--ckpt_path", "best"]
    cli("validate", *run_config)
    best = read_metrics(run / "validate" / "metrics.json")["AP"]
    assert best == max(value for _, value in record["curves"]["val/AP"])
    low_threshold = ["--model.detector.roi_heads.score_thresh", "0", "--pictures.num_images", "1"]
    cli("predict", *run_config, *low_threshold, "--data.predict_path", str(three_categories / "val"))
    found = json.loads((run / "predict" / "detections.json").read_text())
    assert {(row["category_id"], row["category"]) for row in found} == {(n, f"kind {n}") for n in (7, 3, 900)}


def test_new_classes_need_weights(cli, arguments, capsys):
    row = ["--config", "configs/table3/joint_fpn.yaml", "--preset", "mini", *arguments[4:]]
    with pytest.raises(SystemExit):
        cli("fit", *row, "--model.new_classes", "true")
    assert "model.new_classes needs model.init_from, which is not set" in capsys.readouterr().err


@pytest.fixture
def server(tmp_path, monkeypatch, theirs):
    """Serves torchvision's file from this machine; returns the folder that is served."""
    folder, cache = tmp_path / "served", tmp_path / "cache"
    folder.mkdir()
    torch.save(theirs, folder / "file")
    digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
    name = f"fasterrcnn-{digest[:8]}.pth"
    (folder / "file").rename(folder / name)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TORCH_HOME", str(cache))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(PUBLISHED.value, "url", f"http://127.0.0.1:{server.server_port}/{name}")
    yield folder
    server.shutdown()
    server.server_close()


def test_published_weights_are_fetched_by_name_into_torchs_cache(server, theirs, tmp_path):
    (file,) = server.iterdir()
    cached = tmp_path / "cache" / "hub" / "checkpoints" / file.name
    assert split_source("torchvision:COCO_V1") == ("torchvision", str(cached))
    one, other = detector(), detector()
    load_weights(one, "torchvision:COCO_V1")
    assert cached.read_bytes() == file.read_bytes()
    file.unlink()  # the cache is enough
    load_weights(other, "torchvision:COCO_V1")
    assert torch.equal(one.roi_heads.box_head.fc1.weight, theirs["roi_heads.box_head.fc6.weight"])
    with pytest.raises(InputError, match=r"COCO_V9 is not a file.*torchvision:COCO_V1"):
        load_weights(one, "torchvision:COCO_V9")


def test_without_a_network_or_with_another_hash_the_message_says_where_to_put_the_file(server, tmp_path):
    (file,) = server.iterdir()
    file.write_bytes(b"no weights")
    with pytest.raises(
        InputError, match=r"invalid hash value.*Download this file into \S+cache/hub/checkpoints, or give its"
    ):
        fetch_weights("torchvision:COCO_V1")
    file.unlink()
    with pytest.raises(InputError, match=r"could not be fetched from http://127\.0\.0\.1.*Download this file into"):
        fetch_weights("torchvision:COCO_V1")
    assert not list((tmp_path / "cache" / "hub" / "checkpoints").iterdir())

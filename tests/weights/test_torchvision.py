"""Import and export of torchvision's weights: names of all releases, order of classes, rejected files."""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from pathlib import Path, PurePosixPath

import cv2
import pytest
import torch
from torchvision.models.detection import FasterRCNN

from fpn_lightning.errors import InputError
from fpn_lightning.weights import torchvision as tv
from fpn_lightning.weights.export import main as export
from fpn_lightning.weights.init_from import load_weights
from tests.weights.builders import COCO_GAPS, ZOO, calibrate, noise, small_backbone, torchvision_model, zoo_detector

SIZES = [(128, 160), (128, 200)]
SMALL = {"backbone": small_backbone(), "fc_width": 32}
CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"


@pytest.fixture(scope="module")
def theirs() -> FasterRCNN:
    """A small Faster R-CNN of torchvision whose size of images is 128, with spread scores."""
    model = torchvision_model("resnet18", 32, min_size=128, max_size=256)
    images = noise(SIZES)
    batch, _ = model.transform([image / 255 for image in images])
    calibrate(model, batch.tensors, SIZES, gap_bias=-30)
    return model


@pytest.fixture(scope="module")
def path(theirs, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("torchvision") / "model.pth"
    torch.save(theirs.state_dict(), file)
    return str(file)


def small_detector(**changes):
    return zoo_detector("torchvision_r50_fpn", **(SMALL | changes))


def pooler(**changes):
    arguments = {"op": "align", "sampling_ratio": 2, "aligned": False} | changes
    return {"class_path": "fpn_lightning.models.roi_pooler.RoIPooler", "init_args": arguments}


def test_classes_are_reordered_and_background_comes_last(theirs, path):
    detector = small_detector()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left over
        categories = load_weights(detector, f"torchvision:{path}")["categories"]
    assert (categories["ids"][0], categories["ids"][11], categories["ids"][79]) == (1, 13, 90)
    assert (categories["names"][0], categories["names"][11], categories["names"][79]) == (
        "person",
        "stop sign",
        "toothbrush",
    )
    assert len(categories["ids"]) == 80
    assert not set(categories["ids"]) & set(COCO_GAPS)
    logits = theirs.roi_heads.box_predictor.cls_score.weight
    ours = detector.roi_heads.predictor
    assert torch.equal(ours.class_logits.weight[11], logits[13])
    assert torch.equal(ours.class_logits.weight[80], logits[0])
    assert torch.equal(ours.class_logits.weight[81:], logits[COCO_GAPS])
    deltas = theirs.roi_heads.box_predictor.bbox_pred.bias
    assert torch.equal(ours.box_deltas.bias[79 * 4 :], deltas[90 * 4 :])
    assert {module.eps for module in detector.backbone.modules() if hasattr(module, "eps")} == {0.0}


def test_names_of_older_releases_and_of_trainers_are_read(theirs, path, tmp_path):
    older = {
        name.replace("_blocks.0.0.", "_blocks.0.").replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for name, value in theirs.state_dict().items()
    }
    assert "backbone.fpn.inner_blocks.0.weight" in older
    assert "rpn.head.conv.bias" in older
    # torchvision's training script also saves its command line.
    torch.save(
        {"model": older, "args": argparse.Namespace(lr=0.02, data_path="coco"), "epoch": 3}, tmp_path / "older.pth"
    )
    one, other = small_detector(), small_detector()
    load_weights(one, f"torchvision:{path}")
    load_weights(other, f"torchvision:{tmp_path / 'older.pth'}")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"anchors": {"convention": "exact"}}, r"anchors\.convention is exact and has to be torchvision"),
        ({"backbone": small_backbone("caffe")}, r"backbone\.convention is caffe"),
        ({"roi_pooler": "fpn_lightning.models.roi_pooler.RoIPooler"}, r"roi_pooler\.op is pool.*sampling_ratio is 0"),
        ({"scale": {"base_anchor_size": 16}}, r"base_anchor_size"),
        (
            {
                "pyramid": "fpn_lightning.models.pyramids.FinestLevel",
                "anchors": {"convention": "torchvision", "octaves": [[0]]},
            },
            r"pyramid is FinestLevel and has to be FPN",
        ),
        # The tensors have the same names and shapes, but the model computes something else.
        ({"pyramid": "fpn_lightning.models.pyramids.BottomUpPyramid"}, r"pyramid is BottomUpPyramid"),
        ({"roi_pooler": pooler(canonical_level=3)}, r"roi_pooler\.canonical_level is 3 and has to be 4"),
        ({"roi_pooler": pooler(max_level=4)}, r"roi_pooler\.max_level is 4 and has to be 5"),
        (
            {"roi_heads": "fpn_lightning.models.roi_heads.RoIHeads"},
            r"cls_score\.weight is \(91, 32\) in the file, \(81",
        ),
        ({"fc_width": 16}, r"box_head\.fc6\.bias is \(32,\) in the file, \(16,\) in the model"),
        ({"channels": 64}, r"inner_blocks\.0\.weight is \(256, 64, 1, 1\) in the file, \(64, 64, 1, 1\)"),
    ],
)
def test_a_configuration_that_does_not_fit_is_rejected(path, change, named):
    with pytest.raises(InputError, match=named) as rejection:
        load_weights(small_detector(**change), f"torchvision:{path}")
    assert "configs/zoo/torchvision_r50_fpn.yaml" in str(rejection.value)


def test_missing_and_unused_tensors_are_named(theirs, tmp_path):
    state = theirs.state_dict()
    state["roi_heads.mask_head.mask_fcn1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "mask.pth")
    with pytest.warns(UserWarning, match=r"these tensors are not used: roi_heads\.mask_head\.mask_fcn1\.weight"):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'mask.pth'}")
    for name in ("backbone.body.layer3.0.conv1.weight", "rpn.head.cls_logits.bias"):
        del state[name]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"backbone\.body\.layer3\.0\.conv1\.weight, rpn\.head\.cls_logits\.bias\."):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'less.pth'}")
    state = {CLASSIFIER: torch.zeros(21, 32)}
    torch.save(state, tmp_path / "voc.pth")
    with pytest.raises(
        InputError, match=r"cls_score\.weight has shape \(21, 32\); in torchvision's models for COCO, it has 91"
    ):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'voc.pth'}")


def test_a_deeper_backbone_is_rejected(theirs, tmp_path):
    deeper = theirs.state_dict() | {"backbone.body.layer3.2.conv1.weight": torch.zeros(256, 256, 3, 3)}
    torch.save(deeper, tmp_path / "deeper.pth")
    with pytest.raises(
        InputError,
        match=r"larger model than this configuration\. The configuration's model lacks backbone\.body\.layer3\.2\.",
    ):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'deeper.pth'}")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (7, torch.zeros(1), r"is not a state dict: entry 7 is not a tensor with a string as its key"),
        ("epoch", 3, r"is not a state dict: entry 'epoch' is not a tensor with a string as its key"),
        (CLASSIFIER, torch.zeros(91, 32).to_sparse(), r"cls_score\.weight is not a dense tensor"),
        (CLASSIFIER, torch.zeros(91, 32, device="meta"), r"cls_score\.weight is not a dense tensor"),
        (CLASSIFIER, torch.zeros(91, 32, dtype=torch.complex64), r"cls_score\.weight is not a dense tensor"),
        (CLASSIFIER, torch.full((91, 32), torch.nan), r"cls_score\.weight has values that are not finite"),
        (
            CLASSIFIER,
            torch.tensor(1.0),
            r"cls_score\.weight has shape \(\); in torchvision's models for COCO, it has 91 rows",
        ),
        (CLASSIFIER.replace("weight", "bias"), torch.zeros(81), r"cls_score\.bias has shape \(81,\)"),
        (
            "roi_heads.box_predictor.bbox_pred.bias",
            torch.zeros(363),
            r"bbox_pred\.bias has shape \(363,\).*it has 364 rows",
        ),
    ],
)
def test_entries_that_are_not_weights_are_named(theirs, tmp_path, name, value, message):
    torch.save(theirs.state_dict() | {name: value}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=rf"odd\.pth.*{message}"):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'odd.pth'}")


def test_files_without_weights_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth is not a file"):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'nowhere.pth'}")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth cannot be read"):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'text.pth'}")
    torch.save({"model": PurePosixPath("somewhere")}, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth cannot be read \(loading it would run pathlib\.PurePosixPath, but"
    ) as rejection:
        load_weights(small_detector(), f"torchvision:{tmp_path / 'other.pth'}")
    assert "\n" not in str(rejection.value)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth is not a state dict"):
        load_weights(small_detector(), f"torchvision:{tmp_path / 'list.pth'}")


def save_own(detector, ids: list[int], file) -> str:
    torch.save({"state_dict": detector.state_dict(), "categories": {"ids": ids, "names": [str(i) for i in ids]}}, file)
    return str(file)


@torch.no_grad()
def test_an_exported_model_gives_torchvisions_detections(theirs, path, tmp_path, capsys):
    detector = small_detector()
    load_weights(detector, f"torchvision:{path}")
    own = save_own(detector, tv.CATEGORY_IDS, tmp_path / "last.ckpt")
    assert export([own, str(tmp_path / "out.pth"), "--to", "torchvision"]) == 0
    assert "written to" in capsys.readouterr().out
    again = torchvision_model("resnet18", 32, min_size=128, max_size=256)
    again.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))  # strict: every tensor and no other
    images = [image / 255 for image in noise(SIZES)]
    for found, other in zip(again(images), theirs(images), strict=True):
        assert len(found["boxes"]) > 20
        assert all(torch.equal(found[key], other[key]) for key in ("boxes", "labels", "scores"))


def test_unused_ids_get_no_probability_from_a_model_without_their_logits():
    torch.manual_seed(0)
    detector = small_detector(roi_heads="fpn_lightning.models.roi_heads.RoIHeads", num_classes=3)
    state = tv.export_state(detector.state_dict(), [2, 3, 5], "last.ckpt")
    weight, bias = (state[f"roi_heads.box_predictor.cls_score.{kind}"] for kind in ("weight", "bias"))
    features = torch.rand(4, 32)
    ours = detector.roi_heads.predictor.class_logits(features).softmax(dim=1)
    other = (features @ weight.T + bias).softmax(dim=1)
    assert other.shape == (4, 6)
    torch.testing.assert_close(other[:, [2, 3, 5, 0]], ours)
    assert (other[:, [1, 4]] == 0).all()
    deltas = state["roi_heads.box_predictor.bbox_pred.weight"].unflatten(0, (6, 4))
    assert torch.equal(deltas[[2, 3, 5]].flatten(0, 1), detector.roi_heads.predictor.box_deltas.weight)


def test_models_that_torchvision_lacks_are_not_exported(tmp_path, capsys):
    state = {"backbone.stem.0.weight": torch.zeros(8, 3, 3, 3), "mask.weight": torch.zeros(1)}
    torch.save({"state_dict": state, "categories": {"ids": [1], "names": ["a"]}}, tmp_path / "last.ckpt")
    out = tmp_path / "out.pth"
    assert export([str(tmp_path / "last.ckpt"), str(out), "--to", "torchvision"]) == 2
    assert "the export format has no tensor for mask.weight" in capsys.readouterr().err
    assert export([str(tmp_path / "nowhere.ckpt"), str(out), "--to", "torchvision"]) == 2
    assert "nowhere.ckpt is neither a folder nor a file" in capsys.readouterr().err
    rpn = {name: tensor for name, tensor in small_detector().state_dict().items() if not name.startswith("roi_heads.")}
    for content, message in (
        (
            {"state_dict": rpn, "categories": {"ids": [1], "names": ["a"]}},
            "it has no tensor roi_heads.*. Give a checkpoint of a Faster R-CNN.",
        ),
        ({"state_dict": rpn}, "last.ckpt has no categories. Give a checkpoint written by train.py fit."),
    ):
        torch.save(content, tmp_path / "last.ckpt")
        for project in ("torchvision", "detectron2"):
            assert export([str(tmp_path / "last.ckpt"), str(out), "--to", project]) == 2
            assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "runs" / "paper" / "zoo" / "torchvision_r50_fpn" / "seed0"


@pytest.fixture
def zoo_arguments(path, tmp_path, monkeypatch) -> list[str]:
    """Arguments after the subcommand; fetching weights of a backbone is an error."""

    def no_download(*_: object) -> None:
        raise AssertionError("weights of a backbone were fetched")

    monkeypatch.setattr("fpn_lightning.models.backbones.resnet.fetch_torchvision_state", no_download)
    return [
        *("--config", str(ZOO / "torchvision_r50_fpn.yaml"), "--model.init_from", f"torchvision:{path}"),
        *("--model.detector.backbone.name", "resnet18", "--model.detector.fc_width", "32"),
        *("--data.short_side", "128", "--data.max_side", "256", "--data.num_workers", "0"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--experiment.root", str(tmp_path / "runs")),
    ]


@torch.no_grad()
def test_one_command_gives_torchvisions_detections_of_a_folder(cli, theirs, zoo_arguments, run, tmp_path):
    # Images have the size of the network input, so that resizing does not matter.
    folder = tmp_path / "photos"
    folder.mkdir()
    images = noise(SIZES)
    for n, image in enumerate(images):
        cv2.imwrite(str(folder / f"{n}.png"), image.permute(1, 2, 0).numpy()[:, :, ::-1])

    cli("predict", *zoo_arguments, "--data.predict_path", str(folder))
    rows = json.loads((run / "predict" / "detections.json").read_text())
    assert {row["category_id"] for row in rows} <= set(tv.CATEGORY_IDS)
    for n, image in enumerate(images):
        (reference,) = theirs([image / 255])
        mine = [row for row in rows if row["file_name"] == f"{n}.png"]
        assert len(mine) == len(reference["boxes"]) > 20
        boxes = torch.tensor([row["bbox"] for row in mine])
        boxes[:, 2:] += boxes[:, :2]
        # Nearly equal scores may be in another order: match detections by category and box.
        found = torch.tensor([[row["category_id"], row["score"]] for row in mine])
        other = torch.stack((reference["labels"], reference["scores"]), dim=1)
        distance = torch.cdist(boxes, reference["boxes"], p=torch.inf)
        distance[found[:, None, 0] != other[None, :, 0]] = torch.inf
        nearest = distance.argmin(dim=1)
        assert nearest.unique().numel() == len(mine)
        assert distance.amin(dim=1).max() < 1e-2
        assert (found[:, 1] - other[nearest, 1]).abs().max() < 1e-4


def test_fine_tuning_starts_from_the_file_and_says_so(cli, path, zoo_arguments, run, coco_mini):
    few = ["--data.root", str(coco_mini), "--data.max_train_images", "2", "--data.max_val_images", "2"]
    few += ["--data.total_batch_size", "2", "--data.batch_size_per_device", "2"]
    few += ["--model.detector.rpn.post_nms_topk", "100"]
    cli("fit", *zoo_arguments, *few, "--trainer.max_steps", "1", "--model.optimization.lr", "1e-6")
    record = json.loads((run / "metrics.json").read_text())
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert record["parents"] == [f"torchvision:{path} sha256:{digest}"]
    assert {"AP", "AR1k"} <= record["metrics"].keys()
    # The labels are those of the data, in the same order, so the classifier fits.
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["categories"]["ids"] == tv.CATEGORY_IDS
    assert checkpoint["categories"]["names"] == [tv.CATEGORY_NAMES[i] for i in tv.CATEGORY_IDS]
    detector = small_detector()
    load_weights(detector, f"torchvision:{path}")
    for name, value in detector.state_dict().items():
        torch.testing.assert_close(checkpoint["state_dict"][f"detector.{name}"], value, rtol=0, atol=1e-3)

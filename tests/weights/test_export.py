"""A model as one graph gives the detections of ``predict``: in torch, exported, and in onnxruntime."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch

from fpn_lightning.api import Predictor
from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones import NarrowResNet
from fpn_lightning.models.detector import Anchors, Detector, Scale
from fpn_lightning.models.pyramids import SingleMap
from fpn_lightning.models.roi_pooler import RoIPooler
from fpn_lightning.weights import export
from fpn_lightning.weights.deployed import Deployed, resized
from fpn_lightning.weights.loading import OBJECT, Model

SIZES = [(64, 64), (50, 90), (200, 121)]


def model(kind: str, **data) -> Model:
    """A model with random weights whose scores are spread; ``pool`` and ``align`` are Faster R-CNNs."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pooler = lambda *args: RoIPooler(*args, op="align" if kind == "align" else "pool")  # noqa: E731
    options = {"roi_heads": None} if kind in ("rpn", "single") else {}
    if kind == "single":
        options |= {"pyramid": lambda *args: SingleMap(*args, level=4), "anchors": Anchors(octaves=((0, 1, 2),))}
    detector = Detector(
        NarrowResNet(), roi_pooler=pooler, channels=16, fc_width=32, num_classes=5, scale=Scale(8, 56), **options
    ).eval()
    for name, tensor in detector.named_parameters():
        if name.endswith(("logits.weight", "deltas.weight")):
            tensor.data *= 20
    options = {"short_side": 64, "max_side": 96, "size_rounding": "nearest"} | data
    names = OBJECT if detector.roi_heads is None else Categories((1, 2, 3, 5, 8), ("a", "b", "c", "d", "e"))
    return Model(detector, COCODataModule("", num_classes=5, **options), names, "32-true")


def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in SIZES]
    return [
        cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC) for image, size in zip(coarse, SIZES, strict=True)
    ]


def compare(a_model: Model, run) -> None:
    """Compare with ``predict`` on three sizes: the same order, boxes within 0.01 px."""
    predictor = Predictor(a_model, torch.device("cpu"))
    for image in images():
        (expected,) = predictor.predict(image, top_k=1000)
        boxes, scores, labels = run(image)
        assert len(expected) > 20
        assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
        np.testing.assert_allclose(boxes, expected.boxes.numpy(), atol=0.01)
        np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-5)
        assert (labels == expected.labels.numpy()).all()


@pytest.mark.parametrize(
    ("kind", "data"),
    [("pool", {}), ("align", {"size_rounding": "floor"}), ("rpn", {"short_side": 48}), ("single", {})],
)
def test_the_graph_gives_the_detections_of_predict(kind, data):
    a_model = model(kind, **data)
    deployed = Deployed(a_model.detector, a_model.data.transform, 32).eval().requires_grad_(False)
    compare(a_model, lambda image: [out.numpy() for out in deployed(torch.from_numpy(image))])


@pytest.mark.slow  # an export takes two minutes
@pytest.mark.parametrize("kind", ["pool", "align", "rpn"])
def test_exported_programs_and_onnxruntime_give_the_detections_of_predict(kind, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    a_model = model(kind)
    program = export.exported_program(a_model)
    monkeypatch.setattr(export, "exported_program", lambda _: program)  # once for both formats
    pairs = zip(a_model.categories.ids, a_model.categories.names, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]

    export.write_graph(a_model, tmp_path / "model.pt2", "torch")
    extra = {"categories.json": ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["categories.json"]) == categories
    compare(a_model, lambda image: [out.numpy() for out in module(torch.from_numpy(image))])

    export.write_graph(a_model, tmp_path / "model.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["categories"]) == categories
    assert [output.name for output in session.get_outputs()] == ["boxes", "scores", "labels"]
    compare(a_model, lambda image: session.run(None, {"image": image}))


@pytest.mark.parametrize("limits", [(64, 96), (200, 300)])
def test_resizing_is_opencvs(limits):
    random = np.random.default_rng(0)
    for height, width in [(120, 160), (37, 91), (64, 200), (128, 192), (64, 64), (32, 48), (333, 501), (2, 3)]:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        scale = min(limits[0] / min(height, width), limits[1] / max(height, width))
        size = math.floor(height * scale + 0.5), math.floor(width * scale + 0.5)
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        assert (resized(torch.from_numpy(image), (height, width), size).numpy() == expected).all(), (height, width)


def test_what_cannot_be_exported_is_named(tmp_path, capsys):
    assert export.main([str(tmp_path / "nothing"), str(tmp_path / "out.onnx"), "--format", "onnx"]) == 2
    assert "neither a folder nor a file" in capsys.readouterr().err
    detector = Detector(NarrowResNet(), roi_heads=None, channels=8, image_scales=(0.5, 1.0))
    with pytest.raises(InputError, match="image_scales cannot be exported"):
        Deployed(detector, COCODataModule("").transform, 32)

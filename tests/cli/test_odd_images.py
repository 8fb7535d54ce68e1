"""``predict`` on a folder of unusual files: each image is predicted, or skipped and listed."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpn_lightning.data.images import ORIENTATION, read_image
from tests.cli.test_faster_rcnn import ROW

SIZES = {  # width and height as a viewer shows them
    "1x1.png": (1, 1),
    "8000.png": (8000, 60),
    "8000_square.jpg": (8000, 8000),
    "16bit.png": (48, 40),
    "16bit_as_8bit.png": (48, 40),
    "cmyk.jpg": (64, 48),
    "cmyk_as_rgb.png": (64, 48),
    "exif.png": (48, 64),
    "exif_turned.png": (48, 64),
    "gray.png": (64, 48),
    "gray_as_rgb.png": (64, 48),
    "rgba.png": (64, 48),
    "rgba_as_rgb.png": (64, 48),
}
NO_UTF8 = os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"t\xe9xt.jpg")
SIZES[NO_UTF8[0]] = (64, 48)
UNREADABLE = ("broken.png", "empty.jpg", "text.jpg", NO_UTF8[1])


@pytest.fixture
def folder(tmp_path: Path, tiny_data: Path) -> Path:
    """Unusual images, each beside an ordinary image with the same pixels."""
    folder = tmp_path / "odd"
    folder.mkdir()
    first, *_ = sorted((tiny_data / "val").iterdir())
    with Image.open(first) as opened:
        image = opened.convert("RGB").resize((64, 48))

    image.crop((0, 0, 1, 1)).save(folder / "1x1.png")
    image.resize((8000, 60)).save(folder / "8000.png")
    image.convert("L").resize((8000, 8000)).save(folder / "8000_square.jpg")

    deep = np.random.default_rng(0).integers(0, 2**16, (40, 48), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "16bit.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(folder / "16bit_as_8bit.png")

    image.convert("CMYK").save(folder / "cmyk.jpg")
    with Image.open(folder / "cmyk.jpg") as cmyk:
        cmyk.convert("RGB").save(folder / "cmyk_as_rgb.png")

    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown turned by 90 degrees, clockwise
    image.save(folder / "exif.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(folder / "exif_turned.png")

    image.convert("L").save(folder / "gray.png")
    image.convert("L").convert("RGB").save(folder / "gray_as_rgb.png")

    see_through = image.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    see_through.save(folder / "rgba.png")
    image.save(folder / "rgba_as_rgb.png")

    (folder / "broken.png").write_bytes(first.read_bytes()[:100])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("text")

    image.save(folder / NO_UTF8[0])
    (folder / NO_UTF8[1]).write_text("text")
    return folder


def test_each_image_is_predicted_or_skipped_and_listed(cli, arguments, folder, tmp_path, capsys):
    cli("fit", "--config", str(ROW), *arguments[2:], "--trainer.max_steps", "1")
    run = tmp_path / "runs" / "mini" / "table3" / "joint_fpn" / "seed0"
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", "last"]
    saved += ["--model.detector.roi_heads.score_thresh", "0.0"]
    capsys.readouterr()
    cli("predict", *saved, "--data.predict_path", str(folder), "--data.root", str(tmp_path / "nowhere"))

    printed = capsys.readouterr().out
    assert f"4 of {len(SIZES) + 4} images could not be read and were skipped:" in printed
    skipped = json.loads((run / "predict" / "skipped.json").read_text())
    assert [image["file_name"] for image in skipped] == list(UNREADABLE)
    for image in skipped:
        assert str(folder / image["file_name"]) in image["reason"]
        assert image["reason"].replace("\udce9", r"\udce9") in printed

    found = defaultdict(list)
    for line in json.loads((run / "predict" / "detections.json").read_text()):
        found[line["file_name"]].append(line)
    assert found.keys() == SIZES.keys()
    pictures = {path.name for path in (run / "predict" / "pictures").iterdir()}
    assert len(pictures) == len(SIZES)
    for name, (width, height) in SIZES.items():
        x, y, w, h = np.array([line["bbox"] for line in found[name]]).T
        assert x.min() >= 0
        assert y.min() >= 0
        assert (x + w).max() <= width + 1e-3
        assert (y + h).max() <= height + 1e-3
    for odd, ordinary in (
        ("16bit.png", "16bit_as_8bit.png"),
        ("exif.png", "exif_turned.png"),
        ("gray.png", "gray_as_rgb.png"),
        ("rgba.png", "rgba_as_rgb.png"),
    ):
        assert [line["bbox"] for line in found[odd]] == [line["bbox"] for line in found[ordinary]], odd
    cmyk, rgb = (read_image(folder / name).astype(int) for name in ("cmyk.jpg", "cmyk_as_rgb.png"))
    assert abs(cmyk - rgb).max() <= 8  # the two libraries round differently

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fpn_lightning.data.images import check_header, read_image
from fpn_lightning.data.jpeg_warnings import jpeg_warnings
from fpn_lightning.errors import InputError

# A smooth picture, so that JPEG loses little: red grows to the right, green downwards, blue is constant.
HEIGHT, WIDTH = 48, 64
PICTURE = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
PICTURE[..., 0] = np.arange(WIDTH)[None, :] * 4
PICTURE[..., 1] = np.arange(HEIGHT)[:, None] * 5
PICTURE[..., 2] = 100
RGB = Image.fromarray(PICTURE)
GREY = Image.fromarray(PICTURE[..., 0])


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sixteen_bits(extension: str, pixels: np.ndarray) -> bytes:
    """Each value in the high byte, 200 in the low one."""
    wide = pixels.astype(np.uint16) * 256 + 200
    return cv2.imencode(extension, wide[..., ::-1] if wide.ndim == 3 else wide)[1].tobytes()


FILES = {
    "rgb.jpg": (encoded(RGB, "JPEG", quality=95, subsampling=0), PICTURE, 6),
    "progressive.jpg": (encoded(RGB, "JPEG", quality=95, subsampling=0, progressive=True), PICTURE, 6),
    "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG", quality=95, subsampling=0), PICTURE, 8),
    "grey.jpg": (encoded(GREY, "JPEG", quality=95), PICTURE[..., [0, 0, 0]], 4),
    "rgb.png": (encoded(RGB, "PNG"), PICTURE, 0),
    "grey.png": (encoded(GREY, "PNG"), PICTURE[..., [0, 0, 0]], 0),
    "grey and alpha.png": (encoded(GREY.convert("LA"), "PNG"), PICTURE[..., [0, 0, 0]], 0),
    "palette.png": (encoded(GREY.convert("P"), "PNG"), PICTURE[..., [0, 0, 0]], 0),
    "two colours.png": (encoded(GREY.point(lambda v: 255 * (v > 99)).convert("1"), "PNG"), None, 0),
    "16 bits grey.png": (sixteen_bits(".png", PICTURE[..., 0]), PICTURE[..., [0, 0, 0]], 1),
    "16 bits.png": (sixteen_bits(".png", PICTURE), PICTURE, 1),
    "16 bits.tif": (sixteen_bits(".tif", PICTURE), PICTURE, 1),
    "rgb.bmp": (encoded(RGB, "BMP"), PICTURE, 0),
    "grey.gif": (encoded(GREY, "GIF"), PICTURE[..., [0, 0, 0]], 0),
    "rgb.webp": (encoded(RGB, "WEBP", lossless=True), PICTURE, 0),
    "rgb.ppm": (encoded(RGB, "PPM"), PICTURE, 0),
    "bytes appended.jpg": (encoded(RGB, "JPEG", quality=95, subsampling=0) + b"\0" * 9, PICTURE, 6),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_becomes_rgb(tmp_path: Path, name: str) -> None:
    content, expected, tolerance = FILES[name]
    if expected is None:
        expected = np.repeat((PICTURE[..., :1] > 99) * np.uint8(255), 3, axis=2)
    path = tmp_path / name
    path.write_bytes(content)
    pixels = read_image(path, size=(HEIGHT, WIDTH), image_id=4)
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= tolerance


def test_alpha_is_dropped(tmp_path: Path) -> None:
    transparent = RGB.copy()
    transparent.putalpha(0)
    transparent.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), PICTURE)


def test_16_bits_by_pillow_as_by_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sixteen_bits(".png", PICTURE[..., 0]))
    by_opencv = read_image(path)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: None)
    assert np.abs(read_image(path).astype(int) - by_opencv).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_not_applied(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    RGB.save(tmp_path / "a", kind, exif=exif)
    pixels = read_image(tmp_path / "a", size=(HEIGHT, WIDTH))
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 3


def test_wrong_extension(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(RGB, "PNG"))
    assert np.array_equal(read_image(path), PICTURE)


# GIF and PPM are left out: Pillow takes what there is of them.
@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "name", ["rgb.jpg", "progressive.jpg", "grey.jpg", "rgb.png", "16 bits.png", "16 bits.tif", "rgb.webp", "rgb.bmp"]
)
def test_cut_short(tmp_path: Path, name: str) -> None:
    """A file that is cut anywhere is rejected, or only lacks checksums; its pixels are never made up."""
    content = FILES[name][0]
    path = tmp_path / name
    path.write_bytes(content)
    whole = read_image(path)
    messages = []
    lengths = {*np.linspace(1, len(content) - 25, 25).astype(int).tolist(), *range(len(content) - 25, len(content))}
    for length in lengths:
        path.write_bytes(content[:length])
        try:
            assert np.array_equal(read_image(path, image_id=4), whole), f"made-up pixels after {length} bytes"
        except InputError as error:
            messages.append(str(error))
    assert len(messages) >= 24
    assert all(f"{path} (image 4): " in message and "cut short" in message for message in messages)


def test_real_jpegs_cut_short(coco_mini: Path, tmp_path: Path) -> None:
    """OpenCV may fill the rest of these with grey; every cut file is rejected and every whole file is read."""
    random = np.random.default_rng(0)
    for source in sorted((coco_mini / "val2017").glob("*.jpg"))[:12]:
        content = source.read_bytes()
        path = tmp_path / source.name
        path.write_bytes(content[: int(random.integers(2, len(content)))])
        with pytest.raises(InputError, match="cut short"):
            read_image(path)
        with Image.open(source) as image:
            assert np.array_equal(read_image(source), np.asarray(image.convert("RGB")))


def missing_middle(content: bytes, start: float, end: float) -> bytes:
    return content[: int(start * len(content))] + content[int(end * len(content)) :]


@pytest.mark.parametrize("appended", [b"", b"\0\0\0"])
@pytest.mark.parametrize("part", [(0.4, 0.5), (0.5, 0.8), (0.6, 0.97)])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 5}], ids=str
)
def test_jpeg_without_its_middle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: dict, part: tuple[float, float], appended: bytes
) -> None:
    """libjpeg makes up the rows that are missing before the end marker, and prints a line that names no file."""
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG", **options)
    path.write_bytes(content + appended)
    read_image(path)
    path.write_bytes(missing_middle(content, *part) + appended)
    with pytest.raises(InputError, match=r"a\.jpg \(image 4\): a part of the JPEG is missing or damaged"):
        read_image(path, image_id=4)
    assert capfd.readouterr().err == ""


def test_padding_before_the_end_of_a_jpeg_is_no_damage(tmp_path: Path) -> None:
    content = encoded(RGB, "JPEG", quality=95, subsampling=0)
    (tmp_path / "a.jpg").write_bytes(content[:-2] + b"\0" * 50 + content[-2:])
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - PICTURE).max() <= 6


def test_other_lines_on_stderr_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with jpeg_warnings() as damage:
        os.write(2, b"somebody else\nCorrupt JPEG data: bad Huffman code\n")
    assert capfd.readouterr().err == "somebody else\n"
    assert damage == ["Corrupt JPEG data: bad Huffman code"]


def tiff(samples: np.ndarray) -> bytes:
    return cv2.imencode(".tif", samples)[1].tobytes()


@pytest.mark.parametrize("header_only", [False, True])
@pytest.mark.parametrize(
    ("content", "samples"),
    [
        (tiff(PICTURE[..., 0].astype(np.float32) / 255), "32-bit floats"),
        (tiff(PICTURE.astype(np.float32) / 255), "32-bit floats"),
        (tiff(PICTURE.astype(np.float64) / 255), "64-bit floats"),
        (tiff(PICTURE[..., 0].astype(np.int32)), "32-bit signed integers"),
        (encoded(Image.fromarray(PICTURE[..., 0].astype(np.int32)), "TIFF"), "32-bit signed integers"),
        (encoded(Image.fromarray(PICTURE[..., 0].astype(np.float32)), "TIFF", big_tiff=True), "32-bit floats"),
        (b"Pf\n64 48\n-1.0\n" + PICTURE[..., 0].astype("<f4").tobytes(), "32-bit floats"),
    ],
)
def test_samples_that_are_no_colours(tmp_path: Path, content: bytes, samples: str, header_only: bool) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    read = partial(check_header, path, (HEIGHT, WIDTH)) if header_only else partial(read_image, path)
    with pytest.raises(
        InputError, match=rf"a\.tif \(image 4\): its pixel values are {samples}, .* scale them to 8-bit"
    ):
        read(image_id=4)


@pytest.mark.parametrize(("folder", "name"), [("half_jpeg", "half.jpg"), ("float_tiff", "reflectance.tif")])
def test_reported_images(reported: Path, folder: str, name: str) -> None:
    with pytest.raises(InputError, match=name):
        read_image(reported / folder / name)


def test_other_failures(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>404 not found</html>")
    RGB.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"none\.jpg \(image 9\): cannot read"):
        read_image(tmp_path / "none.jpg", image_id=9)
    with pytest.raises(InputError, match=r"cannot read"):
        read_image(tmp_path)
    with pytest.raises(InputError, match=r"empty\.jpg: the image file is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(InputError, match=r"text\.jpg: not an image"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(InputError, match=r"a\.png \(image 9\): the file is 64×48 .* annotations say 48×64"):
        read_image(tmp_path / "a.png", size=(WIDTH, HEIGHT), image_id=9)
    with pytest.raises(InputError, match=r"64×48 pixels, more than the limit of 3071"):
        read_image(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH - 1)
    assert read_image(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)


def test_decompression_bomb_is_rejected_by_its_header(tmp_path: Path) -> None:
    header = encoded(Image.new("1", (1, 1)), "PNG")
    wide = header[:16] + (60_000).to_bytes(4, "big") * 2 + header[24:]
    (tmp_path / "bomb.png").write_bytes(wide)
    with pytest.raises(InputError, match=r"bomb\.png: "):
        read_image(tmp_path / "bomb.png")

"""Reading any image file gives RGB of the declared size or one InputError that names it."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fpn_lightning.data.images import FORMATS, read_image
from fpn_lightning.errors import InputError

HEIGHT, WIDTH = 45, 70
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RGB = Image.fromarray(NOISE)
GREY = RGB.convert("L")
KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "progressive": {"format": "JPEG", "progressive": True},
    "restarts": {"format": "JPEG", "restart_marker_blocks": 2},
    "PNG": {},
    "BMP": {},
    "GIF": {},
    "JPEG2000": {},
    "PPM": {},
    "TIFF": {},
    "LZW": {"format": "TIFF", "compression": "tiff_lzw"},
    "WEBP": {},
    "lossless": {"format": "WEBP", "lossless": True},
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
fuzzed = settings(max_examples=120)
mangled = st.sampled_from(list(KINDS))


def encoded(kind: str, image: Image.Image = RGB, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **({"format": kind} | KINDS[kind] | more))
    return file.getvalue()


def png(header: bytes, rows: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


CONTENTS = {kind: encoded(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "a.jpg"


def read(path: Path, content: bytes) -> np.ndarray | str:
    """The pixels, or the message of the error."""
    path.write_bytes(content)
    message = None
    try:
        pixels = read_image(path, size=(HEIGHT, WIDTH), image_id=4)
    except InputError as error:
        message = str(error)
    if message is not None:
        assert message.startswith(f"{path} (image 4): ")
        return message
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    return pixels


class TestDamaged:
    @fuzzed
    @given(kind=st.sampled_from(["JPEG", "progressive", "restarts", "PNG"]), cut=st.floats(0, 1))
    def test_cut_short(self, path: Path, kind: str, cut: float) -> None:
        content = CONTENTS[kind]
        found = read(path, content[: int(cut * len(content))])
        if isinstance(found, str):
            assert "empty" in found or "cut short" in found
        else:
            # At most checksums and the mark of the end are missing: 20 bytes of a PNG.
            assert len(content) - int(cut * len(content)) <= 20
            assert np.array_equal(found, read(path, content))

    @fuzzed
    @given(kind=mangled, places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
    def test_bytes_changed(self, path: Path, kind: str, places: list[tuple[float, int]]) -> None:
        content = bytearray(CONTENTS[kind])
        for place, value in places:
            # Squared: headers, at the beginning, have more to get wrong.
            content[int(place**2 * (len(content) - 1))] = value
        read(path, bytes(content))

    @fuzzed
    @given(kind=mangled, start=st.integers(0, 200), length=st.integers(0, 80), more=st.binary(max_size=80))
    def test_bytes_exchanged(self, path: Path, kind: str, start: int, length: int, more: bytes) -> None:
        content = CONTENTS[kind]
        read(path, content[:start] + more + content[start + length :])

    @fuzzed
    @example(b"II*\0\x08\0\0\0")
    @example(b"GIF89a")
    @given(
        st.one_of(
            st.binary(),
            st.builds(lambda kind, n, more: CONTENTS[kind][:n] + more, mangled, st.integers(2, 30), st.binary()),
        )
    )
    def test_random_bytes(self, path: Path, content: bytes) -> None:
        assert isinstance(read(path, content), str)

    def test_cut_after_a_preview(self, path: Path) -> None:
        """A JPEG's preview ends as a JPEG does; a file cut there has no pixels of its own."""
        preview = encoded("JPEG", RGB.resize((16, 16)))
        segment = b"Exif\0\0" + preview
        whole = (
            CONTENTS["JPEG"][:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + CONTENTS["JPEG"][2:]
        )
        assert isinstance(read(path, whole), np.ndarray)
        for end in range(len(segment) + 4, len(segment) + 30):
            assert isinstance(read(path, whole[:end]), str)

    @pytest.mark.parametrize("side", [60_000, 3000])
    def test_png_that_declares_more_than_it_holds(self, path: Path, side: int) -> None:
        path.write_bytes(png(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), bytes(1000)))
        with pytest.raises(InputError, match=r"a\.jpg \(image 4\): "):
            read_image(path, image_id=4)

    def test_name_that_no_system_takes(self) -> None:
        for name in ("a\0.jpg", "x" * 5000):
            with pytest.raises(InputError, match=r"\(image 4\): cannot read the image file"):
                read_image(name, image_id=4)


def test_no_program_is_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript."""
    file = io.BytesIO()
    RGB.save(file, "EPS")
    monkeypatch.setattr("subprocess.Popen", lambda *arguments, **options: pytest.fail(f"ran {arguments}"))
    assert "not an image" in read(path, file.getvalue())


def test_every_format_is_known_to_pillow(path: Path) -> None:
    Image.init()
    assert set(FORMATS) - {"AVIF"} <= set(Image.OPEN)
    for kind, content in CONTENTS.items():
        found = read(path, content)
        assert isinstance(found, np.ndarray)
        if kind not in ("JPEG", "progressive", "restarts", "GIF", "WEBP"):
            assert np.abs(found.astype(int) - NOISE).max() <= (0 if kind != "JPEG2000" else 90), kind


def wide(channels: int) -> np.ndarray:
    """uint16 noise; the low byte is as random as the high one."""
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(1).integers(0, 2**16, shape, dtype=np.uint16)


class TestSixteenBits:
    @pytest.mark.parametrize("extension", [".png", ".tif"])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_scaled_to_eight(self, path: Path, extension: str, channels: int) -> None:
        pixels = wide(channels)
        found = read(path, cv2.imencode(extension, pixels)[1].tobytes())
        expected = np.repeat(pixels[..., None], 3, axis=2) if channels == 1 else pixels[..., 2::-1]
        # 257 = 65535 / 255: black stays 0, white becomes 255. A shift by 8 bits differs by less than one.
        assert np.abs(found - expected / 257).max() <= 1.01

    def test_grey_and_alpha(self, path: Path) -> None:
        pixels = wide(2)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        found = read(path, png(struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0), rows))
        assert np.abs(found - pixels[..., :1] / 257).max() <= 1.01


class TestStoredPixels:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_not_applied(self, path: Path, kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = read(path, encoded(kind, exif=exif))
        assert isinstance(found, np.ndarray), found
        assert np.array_equal(found, read(path, encoded(kind)))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_tiff_that_both_libraries_would_turn_is_rejected(self, path: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = read(path, encoded("TIFF", exif=exif))
        if orientation == 1:
            assert np.array_equal(found, NOISE)
        else:
            assert "orientation tag" in found

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_grey_levels(self, path: Path, bits: int) -> None:
        levels = NOISE[..., 0] >> (8 - bits)
        image = Image.fromarray(levels, "P")
        image.putpalette([v * 255 // (2**bits - 1) for v in range(2**bits) for _ in range(3)])
        found = read(path, encoded("PNG", image, bits=bits))
        assert np.array_equal(found, np.repeat(levels[..., None] * (255 // (2**bits - 1)), 3, axis=2))

    def test_transparent_palette(self, path: Path) -> None:
        image = RGB.quantize(16)
        found = read(path, encoded("PNG", image, transparency=3))
        assert np.array_equal(found, np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("mode", ["CMYK", "L"])
    @pytest.mark.parametrize("kind", ["JPEG", "progressive"])
    def test_modes_of_jpeg(self, path: Path, kind: str, mode: str) -> None:
        content = encoded(kind, RGB.convert(mode), quality=95)
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.abs(read(path, content).astype(int) - expected).max() <= 2

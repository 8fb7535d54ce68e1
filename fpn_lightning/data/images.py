"""Decode image files to uint8 RGB arrays.

The EXIF orientation is *not* applied to images with annotations, since COCO's boxes and sizes refer to the stored
pixels. The EXIF orientation is applied to images without annotations, so that predictions fit the image as an image
viewer shows it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from fpn_lightning.data.jpeg_warnings import LEFT_OVER, jpeg_warnings
from fpn_lightning.errors import InputError

# Pillow warns of a decompression bomb above this number of pixels, and rejects an image above twice this number.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
# Accept only formats that cannot contain a program. For an EPS file, Pillow would run Ghostscript on its content.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF")
ORIENTATION = 0x0112  # EXIF and TIFF tag; its value is 1 for an upright image
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of TIFF (two byte orders) and of BigTIFF
BITS, SAMPLE_FORMAT = 258, 339  # TIFF tags
SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
# For each format, the first bytes of a file and the last bytes of a complete file. The compressed pixels
# never contain these last bytes, so a file that is cut short in its pixels does not end with them.
JPEG_START = b"\xff\xd8"
WHOLE = {
    JPEG_START: b"\xff\xd9",  # JPEG: start and end of image
    b"\x89PNG": b"\0\0\0\0IEND\xaeB`\x82",
}


EXCHANGED = (
    "if the boxes fit the image as a viewer shows it (turned by its EXIF orientation tag), store the pixels in this "
    "orientation and remove the tag; otherwise exchange 'width' and 'height' in the annotations"
)


class Header(NamedTuple):
    """Properties of an image file that can be read without decoding its pixels."""

    size: tuple[int, int]
    """Height and width as stored."""
    kind: str
    """Pillow's name of the format, such as ``JPEG``."""
    orientation: int
    """Value of the orientation tag; 1 if the file has no tag or if the tag was not read."""
    progressive: bool


def read_image(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    image_id: int | None = None,
    max_pixels: int = MAX_PIXELS,
    upright: bool = False,
) -> NDArray[np.uint8]:
    """Decode an image file. The format is recognised by the content, not by the file's extension.

    Grey, palette, CMYK and 16-bit images are converted to 8-bit RGB; an alpha channel is dropped.

    Args:
        path: the file.
        size: expected height and width, from the annotation file; None accepts any size.
        image_id: COCO image id, for error messages.
        max_pixels: largest accepted height × width, checked before decoding.
        upright: turn the image as its orientation tag says. ``size`` is the size of the stored pixels, before the
            image is turned by this tag.

    Returns:
        uint8 ``(H, W, 3)`` RGB, contiguous.

    Raises:
        InputError: the file is missing, empty, cut short, damaged, not an image, too large, or has another size than
            ``size``. Also raised for pixel values that are floats, signed, or wider than 16 bits, and for a TIFF with
            an orientation tag if ``upright`` is false.
    """
    name = _name(path, image_id)
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the file name contains a zero byte
        raise _unreadable(name, error) from error
    header = _header(io.BytesIO(content), name, upright)
    _check(header, name, size, max_pixels, upright)
    pixels = _decode(content, name, header)
    return _turned(pixels, header.orientation) if upright and header.kind != "TIFF" else pixels


def upright_pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert a Pillow image to an upright RGB array, equal to ``read_image(path, upright=True)`` for the same file.

    Args:
        image: an image of any mode; it is turned by its orientation tag.
        name: name of the image in error messages.

    Returns:
        uint8 ``(H, W, 3)`` RGB, contiguous.

    Raises:
        InputError: the pixel values are 32-bit floats or integers, or the image file is damaged.
    """
    if image.mode in ("F", "I"):
        raise _no_colours(name, f"32-bit {'floats' if image.mode == 'F' else 'integers'}")
    try:
        pixels, orientation = _rgb(image), 1 if image.format == "TIFF" else _orientation(image)
    except Exception as error:  # Pillow may read and decode the file only now
        raise _damaged(name, error) from error
    return _turned(pixels, orientation)


def check_header(path: str | Path, size: tuple[int, int], image_id: int) -> int:
    """Check the header of an annotated image file. The check is about 100 times faster than decoding the file.

    Args:
        path: the file.
        size: height and width in the annotation file.
        image_id: COCO image id, for error messages.

    Returns:
        Value of the orientation tag; 1 if the file has no tag.

    Raises:
        InputError: for the same reasons as :func:`read_image`, except damage after the header, which is not noticed.
    """
    name = _name(path, image_id)
    try:
        with Path(path).open("rb") as file:
            header = _header(file, name, True)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(name, error) from error
    _check(header, name, size, MAX_PIXELS, upright=False)
    return header.orientation


def _name(path: str | Path, image_id: int | None) -> str:
    return f"{path}" if image_id is None else f"{path} (image {image_id})"


def _unreadable(name: str, error: OSError | ValueError) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"{name}: cannot read the image file ({reason})")


def _check(header: Header, name: str, size: tuple[int, int] | None, max_pixels: int, upright: bool) -> None:
    found = header.size
    if header.kind == "TIFF" and header.orientation != 1 and not upright:
        # OpenCV and Pillow cannot be told to ignore the tag of a TIFF.
        raise InputError(
            f"{name}: the file is a TIFF with an orientation tag, which is not supported for annotated images; remove "
            "the tag and store the pixels as they were annotated"
        )
    if found[0] * found[1] > max_pixels:
        raise InputError(
            f"{name}: the image has {found[1]}×{found[0]} pixels, more than the limit of {max_pixels}; scale it down"
        )
    if size is not None and found != tuple(size):
        advice = EXCHANGED if found == tuple(reversed(size)) else "the file was resized, or belongs to another data set"
        raise InputError(
            f"{name}: the file is {found[1]}×{found[0]} (width × height) but the annotations say {size[1]}×{size[0]}; "
            f"{advice}"
        )


def _header(file: BinaryIO, name: str, with_orientation: bool) -> Header:
    start = file.read(4)
    if not start:
        raise InputError(f"{name}: the image file is empty; copy or download it again")
    try:
        if start in TIFF:
            _check_samples(file, name)
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            if image.mode == "F":
                raise _no_colours(name, "32-bit floats")
            orientation = _orientation(image) if with_orientation or image.format == "TIFF" else 1
            progressive = bool(image.info.get("progressive"))
            return Header((image.height, image.width), str(image.format), orientation, progressive)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the image is too large ({error}); scale the image down") from error
    except Exception as error:  # Pillow raises many types of exception: struct.error, EOFError, KeyError ...
        raise InputError(
            f"{name}: not an image of a known format, or cut short; convert it to PNG or JPEG, or download it again"
        ) from error


def _check_samples(file: BinaryIO, name: str) -> None:
    """Reject a TIFF file with pixel values that are floats, signed integers or wider than 16 bits."""
    file.seek(0)
    first = file.read(8)
    if first[2:3] == b"+" or first[3:4] == b"+":  # BigTIFF has a longer header
        first += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(first)
    file.seek(tags.next)
    tags.load(file)
    bits, sample_format = (max(tags.get(tag, (1,))) for tag in (BITS, SAMPLE_FORMAT))
    if sample_format in (2, 3, 5, 6) or bits > 16:
        raise _no_colours(name, f"{bits}-bit {SAMPLE_FORMATS.get(sample_format, 'values')}")


def _no_colours(name: str, samples: str) -> InputError:
    return InputError(
        f"{name}: its pixel values are {samples}, so it is not known which values are black and white; scale them to "
        "8-bit or 16-bit unsigned integers and store the file again"
    )


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # an EXIF tag after the pixels of a PNG is ignored: Pillow would decode all pixels to find it
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        if image.format == "TIFF":
            raise
        return 1  # the pixels can be read although the orientation tag is damaged


def _decode(content: bytes, name: str, header: Header) -> NDArray[np.uint8]:
    # OpenCV may fill the missing part of a JPEG or PNG with one colour and report no error. Pillow raises an error.
    # Pillow therefore decodes each JPEG or PNG that does not end with the end marker of its format (EOI or IEND).
    if all(content.endswith(end) for start, end in WHOLE.items() if content.startswith(start)):
        pixels = _decode_by_opencv(content, name, header)
        if pixels is not None:
            return pixels
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if content.startswith(JPEG_START):
                # Raises an error if data in the middle of the JPEG are missing. Pillow would raise no error for this.
                _decode_by_opencv(content, name, header)
            return _rgb(image)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        # Keep the high byte of 16-bit pixel values, as OpenCV does. Pillow's conversion would clip the values to 255.
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image.convert("RGB"))


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation not in TURNS:
        return pixels
    return np.ascontiguousarray(Image.fromarray(pixels).transpose(TURNS[orientation]))


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"{name}: the image is damaged or cut short ({error}); copy or download it again")


def _decode_by_opencv(content: bytes, name: str, header: Header) -> NDArray[np.uint8] | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    with jpeg_warnings() as damage:
        try:
            pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
        except cv2.error:
            pixels = None
    # libjpeg fills missing pixels with grey (128), up to the last pixel. If the last pixel has another colour, no pixel
    # is missing, and left-over bytes are padding. In a progressive JPEG, the first scan already gives each pixel a
    # colour, so the colour of the last pixel does not show whether later scans are missing.
    filled = header.progressive or (pixels is not None and bool((pixels[-1, -1] == 128).all()))
    if damage and (filled or not LEFT_OVER.fullmatch(damage[0])):
        raise InputError(f"{name}: a part of the JPEG is missing or damaged ({damage[0]}); copy or download it again")
    return None if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)

"""Decode image files to uint8 RGB arrays.

The EXIF orientation is *not* applied to images with annotations, since COCO's boxes and sizes refer to the stored
pixels. It is applied to image folders, so that results match what an image viewer shows.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fpn_lightning.errors import InputError

# Pillow warns of decompression bombs above this number of pixels and rejects images with twice as many.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
# Formats that only hold pixels: for EPS, Pillow would run Ghostscript on the file's content.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF")
ORIENTATION = 0x0112  # EXIF and TIFF tag; 1: as stored
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# First and last bytes of a whole file. The last bytes do not occur inside the compressed data.
WHOLE = {
    b"\xff\xd8": b"\xff\xd9",  # JPEG: start and end of image
    b"\x89PNG": b"\0\0\0\0IEND\xaeB`\x82",
}


def read_image(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    image_id: int | None = None,
    max_pixels: int = MAX_PIXELS,
    upright: bool = False,
) -> NDArray[np.uint8]:
    """Decode an image file; its extension does not matter.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; an alpha channel is dropped.

    Args:
        path: the file.
        size: expected height and width, from the annotation file; None accepts any.
        image_id: COCO image id, for messages.
        max_pixels: largest height × width accepted; checked before decoding.
        upright: apply the orientation tag. ``size`` is the size before that.

    Returns:
        uint8 ``(H, W, 3)`` RGB, contiguous.

    Raises:
        InputError: the file is missing, empty, cut short, not an image, too large, of another size, or (unless
            ``upright``) a TIFF with an orientation tag.
    """
    name = f"{path}" if image_id is None else f"{path} (image {image_id})"
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: cannot read the image file ({reason})") from error
    if not content:
        raise InputError(f"{name}: the image file is empty; fetch it again")
    found, is_tiff, orientation = _header(content, name, upright)
    if is_tiff and orientation != 1 and not upright:
        # Both libraries apply this tag whether asked to or not.
        raise InputError(f"{name}: a TIFF with an orientation tag; store the pixels as annotated, without it")
    if found[0] * found[1] > max_pixels:
        raise InputError(f"{name}: {found[1]}×{found[0]} is more than the {max_pixels} pixels allowed; scale it down")
    if size is not None and found != tuple(size):
        raise InputError(
            f"{name}: the file is {found[1]}×{found[0]} (width × height) but the annotations say {size[1]}×{size[0]}; "
            "the file was resized or rotated, or belongs to another data set"
        )
    pixels = _decode(content, name)
    if upright and not is_tiff and orientation in TURNS:
        pixels = np.ascontiguousarray(Image.fromarray(pixels).transpose(TURNS[orientation]))
    return pixels


def _header(content: bytes, name: str, upright: bool) -> tuple[tuple[int, int], bool, int]:
    """Read height and width as stored, whether it is a TIFF, and the orientation tag (1 where it is not needed).

    This takes about a hundredth of the time of decoding.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            size, is_tiff = (image.height, image.width), image.format == "TIFF"
            orientation = _orientation(image) if upright or is_tiff else 1
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: the image is too large ({error}); scale it down") from error
    except Exception as error:  # Pillow's parsers raise anything: struct.error, EOFError, KeyError ...
        raise InputError(f"{name}: not an image, or cut short; fetch it again") from error
    return size, is_tiff, orientation


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # a tag may follow the pixels, but Pillow would decode all of them to find it
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        if image.format == "TIFF":
            raise
        return 1  # a damaged tag does not make the pixels unreadable


def _decode(content: bytes, name: str) -> NDArray[np.uint8]:
    # OpenCV may fill the missing part of a JPEG or PNG with one colour without an error. A file that does not end as
    # its format does (cut short, or bytes appended) is therefore decoded by Pillow, which is strict.
    if all(content.endswith(end) for start, end in WHOLE.items() if content.startswith(start)):
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
        except cv2.error:
            pixels = None
        if pixels is not None:
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode.startswith("I;16"):
                # Pillow would clip these to 255 where OpenCV keeps the high byte.
                grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.ascontiguousarray(image.convert("RGB"))
    except Exception as error:
        raise InputError(f"{name}: the image is damaged or cut short ({error}); fetch it again") from error

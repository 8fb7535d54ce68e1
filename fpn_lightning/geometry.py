"""Maps boxes and masks between pixels of an image file and pixels of the network input.

The same :class:`Geometry` maps all boxes, proposals and masks of an image. Sizes are ``(height, width)``. Boxes are
``(B, 4)`` xyxy; their widths are x2 - x1, without "+1".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """How one image file became a network input: cropped to ``window``, resized to ``size``, mirrored if ``flipped``.

    Boxes are mapped in float64 and rounded only when they are stored in float32.

    Attributes:
        size_orig: height and width of the image file.
        size: height and width of the network input, without padding.
        flipped: whether the network input is mirrored left to right.
        window: the crop that the network sees, (x1, y1, x2, y2) in px of the image file; ``None`` for the whole image.
    """

    size_orig: Size
    size: Size
    flipped: bool = False
    window: tuple[int, int, int, int] | None = None

    def to_network(self, boxes_orig: NDArray[np.floating]) -> Boxes:
        """Map boxes from pixels of the image file to network-input pixels: float64, not clipped."""
        offset, scale = self._offset_and_scale()
        return self._mirrored((np.asarray(boxes_orig, dtype=np.float64) - offset) * scale)

    def to_image(self, boxes: NDArray[np.floating]) -> Boxes:
        """Map boxes from network-input pixels to pixels of the image file: float64, not clipped."""
        offset, scale = self._offset_and_scale(back=True)
        return self._mirrored(np.asarray(boxes, dtype=np.float64)) * scale + offset

    def clip_to_network(self, boxes: Boxes) -> Boxes:
        """Clip boxes in network-input pixels to the network input."""
        return _clipped(boxes, self.size)

    def clip_to_image(self, boxes_orig: Boxes) -> Boxes:
        """Clip boxes in pixels of the image file to the image."""
        return _clipped(boxes_orig, self.size_orig)

    def crop(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Crop pixels ``(H, W, ...)`` of the image file to ``window``. The result is a view ``(H', W', ...)``."""
        left, top, right, bottom = self._seen()
        return pixels[top:bottom, left:right]

    def hide_unseen(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Set a mask ``(H, W)`` in pixels of the image file to zero outside ``window``."""
        if self.window is None:
            return mask
        seen = np.zeros_like(mask)
        self.crop(seen)[:] = self.crop(mask)
        return seen

    def mirror_masks(self, masks: NDArray[Any]) -> NDArray[Any]:
        """If ``flipped``, return a mirrored view of masks ``(P, m, m)`` of boxes. Mirroring is its own inverse."""
        return masks[:, :, ::-1] if self.flipped else masks

    def _seen(self) -> tuple[int, int, int, int]:
        height, width = self.size_orig
        return (0, 0, width, height) if self.window is None else self.window

    def _offset_and_scale(self, back: bool = False) -> tuple[list[int], list[float]]:
        """Return the window's top left corner and the scale factors, each as x, y, x, y.

        The factors scale lengths to network-input pixels, or with ``back`` to pixels of the image file.
        """
        (height, width), (left, top, right, bottom) = self.size, self._seen()
        seen_width, seen_height = right - left, bottom - top
        # Compute both factors, to the network input and back, from the sizes: the inverse of the other factor would be
        # rounded twice.
        scale = [seen_width / width, seen_height / height] if back else [width / seen_width, height / seen_height]
        return [left, top] * 2, scale * 2

    def _mirrored(self, boxes: Boxes) -> Boxes:
        """If ``flipped``, mirror boxes in network-input pixels."""
        if not self.flipped:
            return boxes
        width = self.size[1]
        return np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)


def _clipped(boxes: Boxes, size: Size) -> Boxes:
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])

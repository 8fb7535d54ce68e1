"""How an image file became a network input, and the way back: the one place where coordinates change.

Pixels, boxes, proposals and masks all follow from one :class:`Geometry`, so a new step (a crop, another flip) is added
here and nowhere else. Sizes are ``(height, width)``; boxes are ``(B, 4)`` xyxy without a "+1".
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
    """How one image file became a network input: cut to ``window``, resized to ``size``, then mirrored or not.

    Boxes are mapped in float64, so that a result is rounded once, where it is stored in float32.

    Attributes:
        size_orig: height and width of the image file.
        size: height and width of the network input, without padding.
        flipped: whether it is mirrored left to right after resizing.
        window: x1, y1, x2, y2, px of the image file: the part that the network sees; None for the whole image.
    """

    size_orig: Size
    size: Size
    flipped: bool = False
    window: tuple[int, int, int, int] | None = None

    def to_network(self, boxes_orig: NDArray[np.floating]) -> Boxes:
        """Boxes in pixels of the image file as float64 boxes in network-input pixels, not clipped."""
        offset, scale = self._offset_and_scale()
        return self._mirrored((np.asarray(boxes_orig, dtype=np.float64) - offset) * scale)

    def to_image(self, boxes: NDArray[np.floating]) -> Boxes:
        """Boxes in network-input pixels as float64 boxes in pixels of the image file, not clipped."""
        offset, scale = self._offset_and_scale(back=True)
        return self._mirrored(np.asarray(boxes, dtype=np.float64)) * scale + offset

    def clip_to_network(self, boxes: Boxes) -> Boxes:
        """The part of boxes, network-input pixels, that lies inside the network input."""
        return _clipped(boxes, self.size)

    def clip_to_image(self, boxes_orig: Boxes) -> Boxes:
        """The part of boxes, pixels of the image file, that lies inside the image."""
        return _clipped(boxes_orig, self.size_orig)

    def crop(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The part of an image file ``(H, W, ...)`` that the network sees: a view ``(H', W', ...)``."""
        left, top, right, bottom = self._seen()
        return pixels[top:bottom, left:right]

    def hide_unseen(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask ``(H, W)`` of the image file, 0 where the network does not see the image."""
        if self.window is None:
            return mask
        seen = np.zeros_like(mask)
        self.crop(seen)[:] = self.crop(mask)
        return seen

    def mirror_masks(self, masks: NDArray[Any]) -> NDArray[Any]:
        """Masks ``(P, m, m)`` over boxes of one pixel system as masks over the same boxes in the other: a view."""
        return masks[:, :, ::-1] if self.flipped else masks

    def _seen(self) -> tuple[int, int, int, int]:
        height, width = self.size_orig
        return (0, 0, width, height) if self.window is None else self.window

    def _offset_and_scale(self, back: bool = False) -> tuple[list[int], list[float]]:
        """Where the window begins, and the factors to network-input pixels (or back): x, y, x, y each."""
        (height, width), (left, top, right, bottom) = self.size, self._seen()
        seen_width, seen_height = right - left, bottom - top
        # Not the inverse of one factor: dividing twice would round twice.
        scale = [seen_width / width, seen_height / height] if back else [width / seen_width, height / seen_height]
        return [left, top] * 2, scale * 2

    def _mirrored(self, boxes: Boxes) -> Boxes:
        """Boxes of the network input in the mirrored one, or back."""
        if not self.flipped:
            return boxes
        width = self.size[1]
        return np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)


def _clipped(boxes: Boxes, size: Size) -> Boxes:
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])

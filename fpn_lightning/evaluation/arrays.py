"""What metrics are given, as float64 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fpn_lightning.errors import InputError


def float_rows(values: Tensor | NDArray[Any], name: str, width: int | None = None) -> NDArray[np.float64]:
    """Float64 array of shape ``(n,)`` or ``(n, width)``.

    Args:
        values: any real dtype, any device.
        name: of the values, for messages.
        width: length of a row; None for one number a row.

    Raises:
        InputError: another shape, or a value that is not finite.
    """
    # MPS has no float64 and NumPy no bfloat16, hence the order.
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
    if array.size == 0:
        return array.reshape((0,) if width is None else (0, width))
    if array.shape[1:] != (() if width is None else (width,)):
        raise InputError(f"{name} has shape {array.shape}: give {'(n,)' if width is None else f'(n, {width})'}")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InputError(f"{name} holds {array[row].tolist()} in row {row}: give finite numbers")
    return array

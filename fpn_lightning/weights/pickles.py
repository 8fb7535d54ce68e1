"""Reading pickled arrays without trusting the file: nothing but dicts, lists, strings, numbers and arrays is built.

A pickle names the functions that rebuild its content and is free to name any. Here the few that NumPy's arrays need
are answered by functions of our own, which check what they are given; every other name is refused before it is looked
up. NumPy's own are not used: told wrong facts about an array, they would read memory that is not its.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError

Array = NDArray[Any]
NUMBER = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


class _Dtype:
    """Answers for ``numpy.dtype``: one of the plain number types."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not NUMBER.fullmatch(code):
            raise InputError(f"an array of {code!r}, which are no numbers")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Answers for an array that is still to get its content."""

    value: Array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, content = state[-4:]
        self.value = _filled(content, dtype, shape, "F" if fortran else "C")


def _filled(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> Array:
    if not isinstance(content, str | bytes | bytearray):  # bytes(10**12) would take that much memory
        raise InputError(f"the content of an array is a {type(content).__name__}")
    raw = content.encode("latin1") if isinstance(content, str) else content  # bytes of Python 2 arrive as text
    return np.frombuffer(raw, dtype.value).reshape(shape, order=order).astype(dtype.value.newbyteorder("="))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.value = _filled(content, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return _filled(content, dtype, (), "C").item()


def _encode(text: str, _: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for Python 2


def _no_bytes() -> bytes:
    return b""  # how it writes none of them


ANSWERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
}
for _core in ("numpy.core", "numpy._core"):  # up to and from NumPy 2
    ANSWERS |= {
        (f"{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _from_buffer,
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ANSWERS:
            raise InputError(f"it asks for {module}.{name}, which no file of arrays needs")
        return ANSWERS[module, name]


def read_arrays(path: str) -> dict[str, Array]:
    """The arrays under ``model`` in a pickled dictionary, as detectron2's model zoo has it.

    Raises:
        InputError: if the file is none, or wants anything but dicts, lists, strings, numbers and arrays built.
    """
    try:
        with Path(path).open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
        return {str(name): array.value for name, array in content["model"].items()}
    except InputError as error:
        raise InputError(f"model.init_from: {path} is not read: {error}.") from error
    except Exception as error:  # whatever a broken file makes the machine raise
        raise InputError(
            f"model.init_from: {path} has no arrays under 'model', as files of detectron2's model zoo do ({error!r}); "
            "files of Detectron ('blobs') and of bare trunks are others."
        ) from error

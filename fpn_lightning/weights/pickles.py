"""Reads pickled arrays from files that may be malicious. Only dicts, lists, strings, numbers and arrays are built.

``pickle.load`` calls the functions that the file names, and a file can name any function. This reader calls only the
functions in ``ALLOWED``. NumPy's own constructors are not called, because a forged shape could make a constructor read
memory out of bounds.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.errors import InputError

NUMBER = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


class _Dtype:
    """Stands in for ``numpy.dtype`` in the file, and accepts number types only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not NUMBER.fullmatch(code):
            raise InputError(f"the file has an array of type {code!r}, which is not a number type")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for ``numpy.ndarray`` in the file, and checks type and length of the content."""

    value: NDArray[Any]

    def __init__(self, *_: Any) -> None:  # a pickle creates an empty array first and then sets its content
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, is_fortran, content = state[-4:]
        # A forged file can contain any object instead of the array's bytes, such as an integer.
        if not isinstance(content, str | bytes | bytearray):
            raise InputError(f"the content of an array is of type {type(content).__name__}, not bytes")
        # A byte string that Python 2 pickled is read as text, because the unpickler has encoding="latin1".
        raw = content.encode("latin1") if isinstance(content, str) else content
        array = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if is_fortran else "C")
        self.value = array.astype(dtype.value.newbyteorder("="))

    @classmethod
    def from_buffer(cls, content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Self:
        array = cls()
        array.__setstate__((shape, dtype, order == "F", content))
        return array


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    # Pickle protocol 2 stores bytes as a call of encode(text, "latin1"), and empty bytes as a call of bytes().
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    ("__builtin__", "bytes"): lambda: b"",
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    ALLOWED |= {
        (f"{_core}.multiarray", "_reconstruct"): _Array,
        (f"{_core}.multiarray", "scalar"): lambda dtype, content: _Array.from_buffer(content, dtype, (), "C"),
        (f"{_core}.numeric", "_frombuffer"): _Array.from_buffer,
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise InputError(f"loading the file would call {module}.{name}, which is not needed for arrays")
        return ALLOWED[module, name]


def read_arrays(path: str) -> dict[str, NDArray[Any]]:
    """Read the arrays under ``model`` in a pickled dictionary, the format of detectron2's model zoo.

    Raises:
        InputError: if the file has another format, or contains anything but dicts, lists, strings, numbers and arrays.
    """
    try:
        with Path(path).open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
        return {str(name): array.value for name, array in content["model"].items()}
    except InputError as error:
        raise InputError(
            f"model.init_from: {path} cannot be read: {error}. Use a file of detectron2's model zoo."
        ) from error
    except Exception as error:  # a damaged file can cause any exception
        raise InputError(
            f"model.init_from: {path} has no arrays under 'model' ({error!r}). Use a file of detectron2's model zoo; "
            "files of Detectron ('blobs') and weights of a backbone alone have another format."
        ) from error

"""File names for the pictures of a folder's images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def picture_names(file_names: Sequence[str]) -> list[str]:
    """A file name for the picture of each image, all of them different: ``a.png`` for ``a.jpg``.

    Images that would share one keep their extension: ``a.jpg.png`` and ``a.png.png`` for ``a.jpg`` and ``a.png``. Case
    does not tell names apart, since it does not on every file system.

    Args:
        file_names: of the images, without folder, all different.
    """
    stems = [name.rpartition(".")[0] or name for name in file_names]
    times = Counter(stem.casefold() for stem in stems)
    whole = {name.casefold() for name in file_names}
    return [
        f"{stem if times[stem.casefold()] == 1 and stem.casefold() not in whole - {name.casefold()} else name}.png"
        for name, stem in zip(file_names, stems, strict=True)
    ]

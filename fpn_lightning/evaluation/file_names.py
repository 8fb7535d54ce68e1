"""Checks that results belong to the images of an annotation file.

Without this check, an evaluation with the wrong annotation file would give low metrics without an error.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError


class FileNames:
    """Compares the ``file_name`` of results with the file names in the annotation file."""

    def __init__(self, index: COCOIndex) -> None:
        self.index = index
        self._checked: set[tuple[int, str]] = set()

    def check(self, name: str, image_id: int, given: object) -> None:
        """Check ``given``, the ``file_name`` of a result; accept a missing file name. Messages start with ``name``.

        Raises:
            InputError: if the annotation file has another file name for this image id.
        """
        if not isinstance(given, str) or (image_id, given) in self._checked:
            return
        own = self.index.file_name(self.index.row(image_id))
        elsewhere = self._image_ids.get(given, image_id)
        if elsewhere != image_id or not _alike(own, given):
            belongs = f" (the file of image {elsewhere})" if elsewhere != image_id else ""
            raise InputError(
                f"{name}: file_name is {given!r}{belongs}, but in the annotation file, image {image_id} is {own!r}. "
                "The image ids belong to another data set, or are the numbers that `predict` gives to the images of a "
                "folder. Give the annotation file of the predicted split, or predict the split again with "
                "--data.predict_split"
            )
        self._checked.add((image_id, given))

    @cached_property
    def _image_ids(self) -> dict[str, int]:
        return {self.index.file_name(i): image_id for i, image_id in enumerate(self.index.image_ids.tolist())}


def _alike(own: str, given: str) -> bool:
    """Return whether two file names may belong to the same image.

    The file names may differ in folder, extension and a prefix. For example, a file name in COCO 2014 is the file name
    in COCO 2017 with the prefix ``COCO_val2014_``.
    """
    names, others = ({Path(file).name, Path(file).stem} for file in (own, given.replace("\\", "/")))
    return any(one.endswith(other) or other.endswith(one) for one in names for other in others)

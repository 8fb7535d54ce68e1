"""Whether results belong to the images of an annotation file; if not, they would score a small number."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from fpn_lightning.data.coco.index import COCOIndex
from fpn_lightning.errors import InputError


class FileNames:
    """Compares the names of files in results with those in the annotation file."""

    def __init__(self, index: COCOIndex) -> None:
        self.index = index
        self._checked: set[tuple[int, str]] = set()

    def check(self, name: str, image_id: int, given: object) -> None:
        """Check the ``file_name`` of a result, if there is one.

        Args:
            name: the result, for messages.
            image_id: its image id, which the annotation file lists.
            given: its ``file_name``.

        Raises:
            InputError: in the annotation file this id belongs to another file.
        """
        if not isinstance(given, str) or (image_id, given) in self._checked:
            return
        own = self.index.file_name(self.index.row(image_id))
        elsewhere = self._image_ids.get(given, image_id)
        if elsewhere != image_id or not _alike(own, given):
            belongs = f" (there image {elsewhere})" if elsewhere != image_id else ""
            raise InputError(
                f"{name}: file_name is {given!r}{belongs}, but the annotation file's image {image_id} is {own!r}. The "
                "image ids belong to other data, or `predict` has numbered the images of a folder: score the split "
                "that the results are for, and predict with --data.predict_split"
            )
        self._checked.add((image_id, given))

    @cached_property
    def _image_ids(self) -> dict[str, int]:
        return {self.index.file_name(i): image_id for i, image_id in enumerate(self.index.image_ids.tolist())}


def _alike(own: str, given: str) -> bool:
    """Whether two names may be one image's: their folders and extensions may differ, and the start of one.

    COCO 2014 puts ``COCO_val2014_`` before the name that 2017 gives to the same image.
    """
    names, others = ({Path(file).name, Path(file).stem} for file in (own, given.replace("\\", "/")))
    return any(one.endswith(other) or other.endswith(one) for one in names for other in others)

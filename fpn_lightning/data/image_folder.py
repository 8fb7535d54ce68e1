"""A folder of images, or one image file, without annotations: the input of ``predict --data.predict_path``.

Files that cannot be read are skipped and listed at the end. The EXIF orientation is applied, so that predictions fit
the image as an image viewer shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fpn_lightning.data.dataset import Sample
from fpn_lightning.data.images import read_image
from fpn_lightning.data.transforms import ResizeAndFlip, resize
from fpn_lightning.errors import InputError

EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".jp2", ".j2k", ".webp", ".avif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and the reason."""

    image_id: int
    file_name: str
    reason: str


def _images_in(folder: Path, prefix: str, seen: set[Path]) -> Iterator[str]:
    """Yield the names of all images in a folder and its subfolders. Links are followed; each folder is read once."""
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for file in folder.iterdir():
        if file.name.startswith("."):
            continue
        if file.is_dir():
            yield from _images_in(file, f"{prefix}{file.name}/", seen)
        elif file.suffix.lower() in EXTENSIONS:
            yield prefix + file.name


class ImageFolder(Dataset[Sample | Skipped]):
    """Images of a folder and its subfolders, without annotations.

    The dataset is indexed by pairs (position, epoch), like :class:`~fpn_lightning.data.dataset.COCODataset`. File names
    (with their subfolders) are sorted and get the image ids 1..n. Unreadable files get an image id, too. In a folder,
    hidden files, hidden folders and all files with an extension outside ``EXTENSIONS`` are ignored. If ``path`` is a
    single file, its name and extension are not checked.

    Args:
        path: a folder or a file.
        transform: resizes the images.

    Raises:
        InputError: the path does not exist, or the folder does not contain an image.
    """

    def __init__(self, path: str | Path, transform: ResizeAndFlip) -> None:
        path = Path(path)
        self.transform = transform
        self.folder = path if path.is_dir() else path.parent
        self.file_names = [path.name]
        if path.is_dir():
            self.file_names = sorted(_images_in(path, "", set()))
            if not self.file_names:
                raise InputError(f"data.predict_path: neither {path} nor its subfolders contain an image")
        elif not path.is_file():
            raise InputError(
                f"data.predict_path: {path} is neither a folder nor a file; give a folder of images or one image"
            )

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, item: tuple[int, int]) -> Sample | Skipped:
        position, _ = item
        image_id = position + 1
        try:
            pixels = self.pixels_orig(image_id)
        except InputError as error:
            return Skipped(image_id, self.file_name(image_id), str(error))
        height, width = pixels.shape[:2]
        geometry = self.transform.evaluation_geometry((height, width))
        return Sample(resize(pixels, geometry), geometry, image_id)

    def file_name(self, image_id: int) -> str:
        """Return an image's file name, relative to ``folder``."""
        return self.file_names[image_id - 1]

    def pixels_orig(self, image_id: int) -> NDArray[np.uint8]:
        """Read an image as a viewer shows it: uint8 ``(H, W, 3)`` RGB. Raise InputError if the file cannot be read."""
        return read_image(self.folder / self.file_name(image_id), upright=True)

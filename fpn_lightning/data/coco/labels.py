"""Use the supercategories of an annotation file as classes, instead of the categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fpn_lightning.data.coco.annotations import Categories
from fpn_lightning.errors import InputError, listed

Labels = Literal["category", "supercategory"]
PLURAL: dict[Labels, str] = {"category": "categories", "supercategory": "supercategories"}


def merge_categories(
    path: Path, categories: Categories, supercategories: Sequence[str | None]
) -> tuple[Categories, NDArray[np.int64]]:
    """Replace the categories of an annotation file by their supercategories.

    Supercategories are numbered in the order in which they first occur in ``supercategories``. The ids of
    supercategories start after the largest category id (in COCO: 91 to 102). No id is both a category's and a
    supercategory's id, so a result file with ids of the wrong kind is not evaluated by mistake.

    Args:
        path: path of the annotation file, used in messages only.
        categories: the K categories of the file.
        supercategories: name of each category's supercategory, or None if the file does not state the name.

    Returns:
        The supercategories, and an int64 array ``(K,)`` that maps a category's label to its supercategory's label.

    Raises:
        InputError: a category has no supercategory. The message states the id of the category.
    """
    without = [category_id for category_id, name in zip(categories.ids, supercategories, strict=True) if name is None]
    if without:
        raise InputError(
            f"{path}: category {listed(without)} has no 'supercategory', but labels is 'supercategory'; add "
            "'supercategory' to the entries of 'categories', or set labels to 'category'"
        )
    names = tuple(dict.fromkeys(name for name in supercategories if name is not None))
    first = max(categories.ids, default=0) + 1
    label_of = np.array([names.index(str(name)) for name in supercategories], dtype=np.int64)
    return Categories(tuple(range(first, first + len(names))), names), label_of
